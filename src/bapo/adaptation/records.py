"""What adaptation tells the ledger: the fate of every group and each event in a buffer."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import StrEnum

from bapo.adaptation.bands import Band
from bapo.types import Source, TrainBatch


class GroupOutcome(StrEnum):
    """What became of a group in the step it was offered to; each group has exactly one outcome."""

    TRAINED = "trained"
    ALL_WRONG = "all_wrong"
    ALL_RIGHT = "all_right"
    UNVERIFIED = "unverified"
    SURPLUS = "surplus"
    NOT_ACCEPTED = "not_accepted"
    DUPLICATE = "duplicate"
    REFUSED = "refused"
    BATCH_SKIPPED = "batch_skipped"
    UPDATE_SKIPPED = "update_skipped"
    RUN_STOPPED = "run_stopped"


@dataclass(frozen=True, slots=True)
class GroupFate:
    """The outcome of one group in one step.

    Attributes:
        prompt_id: The group's prompt.
        source: Where the group came from.
        correctness_rate: mu in [0, 1]; None where a verdict is not `OK`.
        policy_version: The weights that sampled the group.
        outcome: `TRAINED`, or why it was not.
    """

    prompt_id: str
    source: Source
    correctness_rate: float | None
    policy_version: int
    outcome: GroupOutcome


@dataclass(frozen=True, slots=True)
class Composition:
    """A training batch and how it came about.

    Attributes:
        batch: The groups to learn from.
        fates: One for every fresh group, then every retried one, in the order they were offered,
            then one for each reused group that was taken, or drawn and refused.
        band: The reuse band in this step.
    """

    batch: TrainBatch
    fates: tuple[GroupFate, ...]
    band: Band

    def after_skipping(self, places: Collection[int]) -> "Composition":
        """The same, once it is known that some groups of the batch were not learned from.

        Args:
            places: Their places in the batch.
        """
        trained = [
            number for number, fate in enumerate(self.fates) if fate.outcome is GroupOutcome.TRAINED
        ]
        skipped = {trained[place] for place in places}
        fates = tuple(
            replace(fate, outcome=GroupOutcome.UPDATE_SKIPPED) if number in skipped else fate
            for number, fate in enumerate(self.fates)
        )
        return replace(self, fates=fates)


class BufferEventKind(StrEnum):
    """What happened in a buffer.

    A hard prompt enters, moves to the tail, leaves because it became solvable, is evicted by newer
    ones, fails a retry, is retired as suspect, or is reinstated because it was solved after all. A
    group enters the reuse buffer, expires when its window has passed, or is evicted before that,
    the oldest first, because the buffers would be larger than `max_buffer_megabytes`.
    """

    HARD_ENTERED = "hard_entered"
    HARD_MOVED = "hard_moved"
    HARD_LEFT = "hard_left"
    HARD_EVICTED = "hard_evicted"
    HARD_RETIRED = "hard_retired"
    HARD_REINSTATED = "hard_reinstated"
    RETRY_FAILED = "retry_failed"
    REUSE_ENTERED = "reuse_entered"
    REUSE_EXPIRED = "reuse_expired"
    REUSE_EVICTED = "reuse_evicted"


@dataclass(frozen=True, slots=True)
class BufferEvent:
    """One event in one buffer.

    Attributes:
        event: What happened.
        prompt_id: To which prompt, or to a group of which prompt.
        step: In which step, from 1.
        correctness_rate: The rate, in [0, 1], of the group that caused it; for an eviction the last
            rate of the prompt that had to go.
    """

    event: BufferEventKind
    prompt_id: str
    step: int
    correctness_rate: float


@dataclass(frozen=True, slots=True)
class SuspectPrompt:
    """A prompt that was retired: never one right answer, so its gold answer may be wrong.

    Attributes:
        prompt_id: The prompt.
        failed_retries: Retries that brought no right answer.
        step: The step in which it was retired.
    """

    prompt_id: str
    failed_retries: int
    step: int
