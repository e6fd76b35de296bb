"""Batch adaptation: the heart of BAPO, as one object with the state of a run.

Reference: arXiv 2602.20722, section 3. How one step goes, every choice that the paper leaves open
and every departure from it stand in docs/algorithm.md; each module of this package names its own.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from bapo.adaptation.bands import Band, PolicyStrength, reuse_band
from bapo.adaptation.composer import Composer
from bapo.adaptation.hard_buffer import HardBuffer
from bapo.adaptation.packed import PackedGroup
from bapo.adaptation.records import BufferEvent, Composition, SuspectPrompt
from bapo.adaptation.reuse_buffer import ReuseBuffer
from bapo.adaptation.staleness import StalenessControl, StepDistances
from bapo.config import AdaptationSettings
from bapo.types import Group, Prompt


class Adaptation:
    """Rebuilds every training batch, and remembers what the next ones need.

    Life cycle of a step: `missing_fresh` as long as more prompts may be drawn, `prompts_to_retry`,
    `compose`, and after the update `observe`. The state at the start of a step decides the step:
    only `observe` changes it, so the groups of a step cannot reappear in its own batch.

    A group with any verdict that is not `OK` takes no part: it is in no batch and no buffer, does
    not move r, and leaves its prompt's place and retry count in the hard buffer as they are.

    Determinism: the only random choice, which groups are reused, derives from (seed, step) and not
    from a running generator. A checkpoint keeps both buffers, the retry counts and r.
    """

    def __init__(self, settings: AdaptationSettings, *, batch_groups: int, seed: int) -> None:
        """Starts with empty buffers.

        Args:
            settings: The rules; see `AdaptationSettings`.
            batch_groups: B, groups per training batch, at least 1.
            seed: The run's seed, at least 0.
        """
        self._settings = settings
        self._composer = Composer(settings, batch_groups=batch_groups, seed=seed)
        capacity = settings.hard_capacity or batch_groups
        self._max_bytes = int(settings.max_buffer_megabytes * 1e6)
        self._hard = HardBuffer(
            capacity, settings.hard_threshold, settings.max_retries, self._max_bytes
        )
        self._reuse = ReuseBuffer(settings.widest_window)
        self._strength = PolicyStrength(settings.band_half_life)
        self._staleness = StalenessControl(settings)

    @property
    def band(self) -> Band:
        """The reuse band [c2, c3] for the next step to be composed."""
        return reuse_band(self._settings, self._strength.value)

    @property
    def suspects(self) -> tuple[SuspectPrompt, ...]:
        """The prompts that were retired and never had a right answer, in order of retirement."""
        return self._hard.suspects

    @property
    def reusable(self) -> tuple[PackedGroup, ...]:
        """The groups in the reuse buffer, oldest first, inside the band or not."""
        return self._reuse.groups

    def missing_fresh(self, fresh: Sequence[Group]) -> int:
        """How many informative fresh groups are missing to B; 0 where nothing is filtered.

        Args:
            fresh: All groups sampled from the behavior policy in this step so far.
        """
        return self._composer.missing_fresh(fresh)

    def prompts_to_retry(self, step: int) -> tuple[Prompt, ...]:
        """The hard prompts to ask again in `step`, oldest first; none unless it is a retry step."""
        if not self._settings.retry or step % self._settings.retry_every != 0:
            return ()
        return self._hard.prompts

    @property
    def sync_due(self) -> bool | None:
        """Whether the next step makes the behavior policy current; None: every v steps as set."""
        return self._staleness.sync_due

    @property
    def cap_scale(self) -> float:
        """What `objective.importance_cap` is multiplied by now."""
        return self._staleness.cap_scale

    def compose(
        self,
        step: int,
        fresh: Sequence[Group],
        retried: Sequence[Group],
        refused: Collection[Group] = (),
    ) -> Composition:
        """Composes the batch of one step, without changing the state.

        Args:
            step: The training step, from 1.
            fresh: The groups sampled from the behavior policy, in the order of the draw.
            retried: The groups sampled from the current policy for `prompts_to_retry(step)`.
            refused: Groups of an earlier composition of this step that are too far from the policy.

        Raises:
            ValueError: A retried prompt is not in the hard buffer.
        """
        band = self.band
        return self._composer.compose(
            step,
            fresh,
            retried,
            previous_rate=self._hard.rate_of,
            eligible=self._reuse.eligible(step, band, self._staleness.window),
            band=band,
            refused=refused,
        )

    def abandon(self, step: int, fresh: Sequence[Group], retried: Sequence[Group]) -> Composition:
        """The composition of a step that stops the run: an empty batch, and every group's fate.

        Args:
            step: The training step, from 1.
            fresh: The groups sampled from the behavior policy.
            retried: The groups sampled from the current policy.
        """
        return self._composer.abandon(step, fresh, retried, self.band)

    def observe(
        self, step: int, fresh: Sequence[Group], retried: Sequence[Group]
    ) -> tuple[BufferEvent, ...]:
        """Updates buffers and band with the groups of one step, trained on or not.

        Args:
            step: The training step, larger than any observed before.
            fresh: As given to `compose`.
            retried: As given to `compose`.

        Returns:
            What happened in the hard buffer, then in the reuse buffer.

        Raises:
            ValueError: A retried prompt is not in the hard buffer.
        """
        fresh = [group for group in fresh if group.is_verified]
        retried = [group for group in retried if group.is_verified]
        events: list[BufferEvent] = []
        if self._settings.retry:
            events += self._hard.observe(step, fresh, retried)
        if self._settings.reuse:
            kept = [*fresh, *retried] if self._settings.reuse_retried else fresh
            # Hard prompts are few and small, groups many and large: the groups make room.
            events += self._reuse.observe(step, kept, self._max_bytes - self._hard.bytes)
        self._strength.observe([group.correctness_rate for group in fresh])
        return tuple(events)

    def observe_distances(self, step: int, distances: StepDistances) -> None:
        """Steers the age of samples; see `StalenessControl.observe`."""
        self._staleness.observe(step, distances)

    def metrics(self) -> dict[str, int | float]:
        """The state in numbers: what the next step will be decided by."""
        band = self.band
        return {
            "hard_buffer_size": len(self._hard),
            "hard_buffer_evicted": self._hard.evicted_last_step,
            "prompts_retired": len(self._hard.suspects),
            "reuse_buffer_size": len(self._reuse),
            "reuse_buffer_evicted": self._reuse.evicted_last_step,
            "buffer_megabytes": (self._hard.bytes + self._reuse.bytes) / 1e6,
            "reuse_low": band.low,
            "reuse_high": band.high,
            "policy_strength": self._strength.value,
            "reuse_window": self._staleness.window,
            "behavior_delay": self._staleness.delay,
        }

    def state_dict(self) -> dict[str, Any]:
        """The state as a tree of dicts, lists, plain values and NumPy arrays."""
        return {
            "hard_buffer": self._hard.state_dict(),
            "reuse_buffer": self._reuse.state_dict(),
            "policy_strength": self._strength.state_dict(),
            "staleness": self._staleness.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over the state that `state_dict` gave, under the same settings and seed."""
        self._hard.load_state_dict(state["hard_buffer"])
        self._reuse.load_state_dict(state["reuse_buffer"])
        self._strength.load_state_dict(state["policy_strength"])
        self._staleness.load_state_dict(state["staleness"])
