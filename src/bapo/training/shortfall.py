"""What a run has to say against itself."""

from collections.abc import Mapping
from typing import Any

MANY = 0.1
"""Share of groups lost above which it is said."""


IDLE_STEPS = 10
"""Steps in a row without an update after which it is said."""

IDLE = (
    f"no update in {IDLE_STEPS} steps in a row: no batch held a group from which anything could be "
    "learned; look at examples.jsonl, then try easier problems, more completions "
    "('rollout.group_size'), or a warm start."
)


def shortfalls(summary: Mapping[str, Any]) -> list[str]:
    """Sentences on groups and updates that were lost in more than a few cases.

    Args:
        summary: As in summary.json.
    """
    lost, sampled = summary["groups_unverified"], summary["groups_sampled_fresh"]
    skipped, tried = summary["updates_skipped"], summary["updates_skipped"] + summary["updates"]
    found: list[str] = []
    if lost > MANY * sampled:
        found.append(
            f"{lost} of {sampled} fresh groups were lost because a verdict was not ok; "
            "quarantine.jsonl has the reasons."
        )
    if skipped > MANY * tried:
        found.append(
            f"{skipped} of {tried} optimizer updates were skipped because loss or gradient was not "
            "finite (lower 'training.learning_rate', or look at the scores), or because every "
            "completion was cut off and 'objective.mask_truncated' left nothing to learn from "
            "(raise 'rollout.max_new_tokens')."
        )
    return found


def without_update(summary: Mapping[str, Any]) -> str | None:
    """Why a finished run is no success, or None where it made an optimizer update."""
    if summary["updates"]:
        return None
    return (
        f"no optimizer update was made in {summary['steps']} steps, so the policy is the base "
        "model: no batch held a group from which anything could be learned; bapo inspect shows "
        "what became of the groups."
    )
