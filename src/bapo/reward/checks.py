"""Checks of a verifier, and of rows against it, before the first step of a run."""

from collections.abc import Sequence

from bapo.errors import VerifierError
from bapo.reward.groups import TOKENS, columns_of
from bapo.reward.pool import VerifierPool
from bapo.types import Prompt, VerdictStatus


def column_faults(pool: VerifierPool, prompts: Sequence[Prompt]) -> dict[str, str]:
    """Why the verifier cannot judge answers to prompts, with the cure, by the id of each.

    Args:
        pool: An open pool.
        prompts: Prompts that the verifier is going to be used with.

    Returns:
        A reason for each prompt that lacks a column which the verifier needs, or has columns that
        its `check_columns` refuses.

    Raises:
        VerifierError: The verifier can no longer be started.
    """
    given = {one.prompt_id: columns_of(one, pool.named_columns) for one in prompts}
    faults: dict[str, str] = {}
    for name, columns in given.items():
        needed = [column for column in pool.required_columns if column != TOKENS]
        missing = [column for column in needed if column not in columns]
        if missing:
            faults[name] = (
                f"the verifier '{pool.verifier}' needs the column '{missing[0]}', which it lacks; "
                f"its columns are {', '.join(columns) or 'none'}"
            )
    if not pool.checks_columns:
        return faults
    whole = {name: columns for name, columns in given.items() if name not in faults}
    verdicts = pool.collect(pool.submit([(None, columns) for columns in whole.values()]))
    for name, verdict in zip(whole, verdicts, strict=True):
        if verdict.status is not VerdictStatus.OK:
            reason = verdict.detail
            faults[name] = f"the verifier '{pool.verifier}' cannot use it ({reason.rstrip('.')})"
    return faults


def check_verifier(pool: VerifierPool) -> int:
    """Runs the verifier's golden cases.

    Args:
        pool: An open pool.

    Returns:
        How many golden cases there were; none is no error.

    Raises:
        VerifierError: A case gets the wrong verdict or none.
    """
    cases = pool.golden_cases
    verdicts = pool.verify([(completion, columns) for completion, columns, _ in cases])
    for (completion, _, expected), verdict in zip(cases, verdicts, strict=True):
        if verdict.status is not VerdictStatus.OK:
            raise VerifierError(
                f"The verifier '{pool.verifier}' fails on its golden case {completion[:100]!r}: "
                f"{verdict.detail}"
            )
        if verdict.correct != expected:
            raise VerifierError(
                f"The verifier '{pool.verifier}' calls its golden case {completion[:100]!r} "
                f"{'right' if verdict.correct else 'wrong'} (score {verdict.score:g}), but GOLDEN "
                f"says {'right' if expected else 'wrong'}."
            )
    return len(cases)
