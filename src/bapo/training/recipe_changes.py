"""What may differ between a run's recipe and the one that it is resumed with."""

from collections.abc import Iterator, Mapping
from typing import Any

from bapo.errors import RunFolderError

_FREE = {
    "evaluation.every",
    "evaluation.examples",
    "logging.project",
    "logging.trackers",
    "reward.max_invalid_share",
    "reward.pass_environment",
    "reward.recycle_after",
    "reward.workers",
    "rollout.probe_tolerance",
    "task.max_bad_share",
    "task.strict",
    "training.checkpoint_every",
    "training.keep_checkpoints",
    "training.max_nonfinite_steps",
    "reward.overlap",
}
"""Settings that change what is watched, kept or tolerated, and no number that is trained on; that
the prompts are still the same is checked apart."""

_SAID = {
    "model.device",
    "model.threads",
    "reward.memory_megabytes",
    "reward.timeout_seconds",
    "rollout.decoder",
    "rollout.refill",
    "rollout.token_budget",
    "training.gradient_checkpointing",
    "training.micro_batch_tokens",
    "training.native_layers",
    "training.share_prompts",
}
"""Settings that a run may need changed to go on at all: on another machine, out of memory, with a
verifier that was given too little time. They change last bits or single verdicts, which is said."""

_ABSENT = object()


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Compares the recipe of a checkpoint with the one that the run is to be resumed with.

    Args:
        before: The recipe as plain values, as the checkpoint has it.
        now: The recipe as plain values.

    Returns:
        The changes that are allowed but will show in the results, as `name: old -> new`.

    Raises:
        RunFolderError: A setting differs that would make it another run; all are named.
    """
    old, new = dict(_flat(before)), dict(_flat(now))
    names = [name for name in {**old, **new} if old.get(name, _ABSENT) != new.get(name, _ABSENT)]
    refused = [name for name in names if name not in _FREE | _SAID and name != "steps"]
    if refused:
        raise RunFolderError(
            "The run cannot be resumed with another recipe; these settings differ: "
            f"{'; '.join(_change(name, old, new) for name in refused)}. Resume with the recipe of "
            "the run, its recipe.yaml, or start another run."
        )
    if "steps" in names:
        _check_steps(old["steps"], new["steps"], new["training.schedule"])
    return [_change(name, old, new) for name in names if name in _SAID]


def _check_steps(old: int, new: int, schedule: str) -> None:
    """More steps are the same run for longer, unless the learning rate depends on their number."""
    if new < old:
        raise RunFolderError(
            f"The run was started with steps = {old}, and cannot be resumed with {new}: steps may "
            "be raised, not lowered."
        )
    if schedule != "constant":
        raise RunFolderError(
            f"The run was started with steps = {old}, and cannot be resumed with {new}: its "
            f"learning rate follows a {schedule} schedule over all steps."
        )


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of nested mappings, under its dotted name."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _change(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    before, now = (repr(side[name]) if name in side else "absent" for side in (old, new))
    return f"{name}: {before} -> {now}"
