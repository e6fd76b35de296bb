"""The composer: a training batch from fresh, retried and reused groups.

Reference: arXiv 2602.20722, section 3. Departures: a prompt stands at most once in a batch; when
all three sources leave the batch short it is trained on as it is or skipped, as `when_short` says;
each source is a switch, so that GRPO and DAPO are settings of the same composer.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace

import numpy as np

from bapo.adaptation.bands import Band
from bapo.adaptation.filters import is_informative, reject_fresh, reject_retried
from bapo.adaptation.packed import PackedGroup
from bapo.adaptation.records import Composition, GroupFate, GroupOutcome
from bapo.config import AdaptationSettings
from bapo.types import BatchEntry, Group, Source, TrainBatch

_REUSE_STREAM = int.from_bytes(b"reuse", "big")


class Composer:
    """Fills a batch of B groups: fresh ones first, then retried ones, then reused ones.

    It holds no state. The order in which reused groups are drawn comes from a generator derived
    from (seed, "reuse", step), so that composing a step again gives the same batch.
    """

    def __init__(self, settings: AdaptationSettings, *, batch_groups: int, seed: int) -> None:
        """Fixes the rules.

        Args:
            settings: Which groups each source may give.
            batch_groups: B, at least 1.
            seed: The run's seed, at least 0.
        """
        self._settings = settings
        self._batch_groups = batch_groups
        self._seed = seed

    def missing_fresh(self, fresh: Sequence[Group]) -> int:
        """How many more informative fresh groups, of prompts not yet among them, make up B."""
        if not self._settings.filter_fresh:
            return 0
        informative = {group.prompt_id for group in fresh if is_informative(group)}
        return max(0, self._batch_groups - len(informative))

    def compose(
        self,
        step: int,
        fresh: Sequence[Group],
        retried: Sequence[Group],
        *,
        previous_rate: Callable[[str], float],
        eligible: Sequence[PackedGroup],
        band: Band,
        refused: Collection[Group] = (),
    ) -> Composition:
        """Composes the batch of one step.

        Args:
            step: The training step, from 1.
            fresh: The groups sampled from the behavior policy, in the order of the draw.
            retried: The groups sampled from the current policy for hard prompts.
            previous_rate: The last correctness rate of a hard prompt, by its id.
            eligible: The groups that may be reused, all inside `band`.
            band: The reuse band, for the record.
            refused: Groups that are too far from the current policy; others take their places.

        Returns:
            The batch, the fate of every group, and the band.
        """
        draft = _Draft(self._batch_groups)
        for group in fresh:
            reason = reject_fresh(group, filter_fresh=self._settings.filter_fresh)
            draft.offer(group, Source.FRESH, reason or _refusal(group, refused))
        for group in retried:
            reason = reject_retried(
                group,
                rule=self._settings.retry_accept,
                hard_threshold=self._settings.hard_threshold,
                previous_rate=previous_rate(group.prompt_id),
            )
            draft.offer(group, Source.RETRIED, reason or _refusal(group, refused))
        for index in self._draw_order(step, len(eligible)):
            if draft.missing == 0:
                break
            if not draft.holds(eligible[index].prompt_id):
                group = eligible[index].group
                draft.offer(group, Source.REUSED, _refusal(group, refused))
        if self._settings.when_short == "skip" and draft.missing > 0:
            draft.skip()
        return Composition(TrainBatch(step, tuple(draft.entries)), tuple(draft.fates), band)

    def abandon(
        self, step: int, fresh: Sequence[Group], retried: Sequence[Group], band: Band
    ) -> Composition:
        """An empty batch; groups that could have been trained on were given up with the run."""
        draft = _Draft(self._batch_groups)
        for source, groups in ((Source.FRESH, fresh), (Source.RETRIED, retried)):
            for group in groups:
                lost = GroupOutcome.RUN_STOPPED if group.is_verified else GroupOutcome.UNVERIFIED
                draft.offer(group, source, lost)
        return Composition(TrainBatch(step, ()), tuple(draft.fates), band)

    def _draw_order(self, step: int, count: int) -> Iterator[int]:
        """A uniformly random order of `count` groups, a function of seed and step.

        A shuffle that remembers only what it has moved: its cost is that of the draws made, however
        large the buffer.
        """
        sequence = np.random.SeedSequence([self._seed, _REUSE_STREAM, step])
        generator = np.random.Generator(np.random.Philox(sequence))
        moved: dict[int, int] = {}
        for place in range(count):
            other = int(generator.integers(place, count))
            here = moved.pop(place, place)
            yield here if other == place else moved.get(other, other)
            if other != place:
                moved[other] = here


def _refusal(group: Group, refused: Collection[Group]) -> GroupOutcome | None:
    return GroupOutcome.REFUSED if group in refused else None


class _Draft:
    """A batch in the making, of at most `capacity` groups."""

    def __init__(self, capacity: int) -> None:
        self.entries: list[BatchEntry] = []
        self.fates: list[GroupFate] = []
        self._capacity = capacity
        self._prompt_ids: set[str] = set()

    @property
    def missing(self) -> int:
        return self._capacity - len(self.entries)

    def holds(self, prompt_id: str) -> bool:
        """Whether a group of this prompt is in the batch."""
        return prompt_id in self._prompt_ids

    def offer(self, group: Group, source: Source, reason: GroupOutcome | None) -> None:
        """Takes the group in, unless there is a reason against it, and records its fate."""
        outcome = reason or self._place(group, source)
        rate = group.correctness_rate if group.is_verified else None
        version = group.rollout.policy_version
        self.fates.append(GroupFate(group.prompt_id, source, rate, version, outcome))

    def _place(self, group: Group, source: Source) -> GroupOutcome:
        if self.holds(group.prompt_id):
            return GroupOutcome.DUPLICATE
        if self.missing == 0:
            return GroupOutcome.SURPLUS
        self.entries.append(BatchEntry(group, source))
        self._prompt_ids.add(group.prompt_id)
        return GroupOutcome.TRAINED

    def skip(self) -> None:
        """Empties the batch; what would have been trained on is recorded as skipped."""
        self.entries.clear()
        self.fates = [
            replace(fate, outcome=GroupOutcome.BATCH_SKIPPED)
            if fate.outcome is GroupOutcome.TRAINED
            else fate
            for fate in self.fates
        ]
