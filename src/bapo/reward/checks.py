"""Checks of a verifier before the first step of a run."""

from collections.abc import Iterable

from bapo.errors import VerifierError
from bapo.reward.groups import columns_of
from bapo.reward.pool import VerifierPool
from bapo.types import Prompt, VerdictStatus


def check_verifier(pool: VerifierPool, prompts: Iterable[Prompt] = ()) -> int:
    """Runs the verifier's golden cases and compares its columns with those of the prompts.

    Args:
        pool: An open pool.
        prompts: Prompts that the verifier is going to be used with.

    Returns:
        How many golden cases there were; none is no error.

    Raises:
        VerifierError: A case gets the wrong verdict or none, or a prompt lacks a column.
    """
    for prompt in prompts:
        columns = columns_of(prompt, pool.named_columns)
        missing = [name for name in pool.required_columns if name not in columns]
        if missing:
            raise VerifierError(
                f"The verifier '{pool.verifier}' needs the column '{missing[0]}', which the prompt "
                f"'{prompt.prompt_id}' lacks; its columns are {', '.join(columns) or 'none'}."
            )
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
