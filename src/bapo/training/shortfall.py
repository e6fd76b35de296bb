"""What a run has to say against itself."""

from collections.abc import Mapping

MANY = 0.1
"""Share of groups lost above which it is said."""


IDLE_STEPS = 10
"""Steps in a row without an update after which it is said."""

IDLE = (
    f"no update in {IDLE_STEPS} steps in a row: no batch held a group from which anything could be "
    "learned; look at examples.jsonl, then try easier problems, more completions "
    "('rollout.group_size'), or a warm start."
)


def shortfalls(totals: Mapping[str, int]) -> list[str]:
    """Sentences on groups and updates that were lost in more than a few cases, or all of them.

    Args:
        totals: The counts of summary.json.
    """
    lost, sampled = totals["groups_unverified"], totals["groups_sampled_fresh"]
    skipped, tried = totals["updates_skipped"], totals["updates_skipped"] + totals["updates"]
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
    if not totals["updates"]:
        found.append(
            f"no optimizer update was made in {totals['steps']} steps, so the policy is the base "
            "model: no batch held a group from which anything could be learned; bapo inspect shows "
            "what became of the groups."
        )
    return found
