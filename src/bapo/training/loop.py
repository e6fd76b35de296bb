"""The training loop: one step of it reads like the algorithm (docs/algorithm.md, One step).

The loop owns the order of things and nothing else: what is sampled is the engine's, what is right
the verifier's, which groups a batch holds adaptation's, how the weights change the learner's.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import Any, Protocol

from bapo.adaptation import Adaptation, BufferEvent, Composition, GroupFate, StepDistances
from bapo.config import Recipe
from bapo.errors import RunStoppedError
from bapo.rollout import Engine
from bapo.training.account import verdict_lines
from bapo.training.bounds import mean_distance
from bapo.training.metrics import Metric, StepInputs, step_metrics
from bapo.training.prompt_stream import PromptStream
from bapo.training.seeds import derived_seed
from bapo.training.update_report import UpdateReport
from bapo.types import Group, Prompt, Rollout, Source, TrainBatch, VerdictStatus

_Refused = dict[Group, tuple[Source, float]]
"""The groups that a step has refused, with their source and TV(pi_t, alpha)."""

Verify = Callable[[Sequence[Rollout]], list[Group]]


class PolicyUpdater(Protocol):
    """What the loop needs of a learner."""

    def update(self, batch: TrainBatch, *, cap_scale: float = 1.0) -> UpdateReport:
        """Learns from a batch; an empty one changes nothing."""
        ...

    def behavior_distances(self, batch: TrainBatch) -> list[float]:
        """TV(pi_t, alpha) of each group of a batch that is about to be learned from."""
        ...


class PolicySync(Protocol):
    """Keeps the engine's weights in step with the learner's."""

    def behavior(self, step: int, *, due: bool | None = None) -> int:
        """The version that fresh groups of this step come from, ready in the engine."""
        ...

    def current(self, step: int) -> int:
        """The version of the weights at the start of this step, ready in the engine."""
        ...


@dataclass(frozen=True, slots=True)
class StepRecord:
    """Everything one step leaves behind.

    Attributes:
        metrics: A line of metrics.jsonl.
        composition: The batch, and the fate of every group.
        events: What happened in the buffers.
        quarantine: Lines of quarantine.jsonl: verdicts that are not `ok`.
    """

    metrics: dict[str, Metric]
    composition: Composition
    events: tuple[BufferEvent, ...]
    quarantine: tuple[Mapping[str, Any], ...]

    def ledger_lines(self) -> Iterator[Mapping[str, Any]]:
        """The step's lines of ledger.jsonl."""
        step = self.composition.batch.step
        for fate in self.composition.fates:
            yield {"step": step, "kind": "group", **_plain(fate)}
        for event in self.events:
            yield {"step": step, "kind": "buffer", **_plain(event)}


class StoppedStepError(RunStoppedError):
    """A step that stopped the run; what it leaves behind is still to be written.

    Args:
        sentence: Why.
        record: Of the step.
    """

    def __init__(self, sentence: str, record: StepRecord) -> None:
        super().__init__(sentence)
        self.record = record


@dataclass(slots=True)
class Loop:
    """One run's parts, and the step that joins them.

    Attributes:
        recipe: The settings of the run.
        stream: Training prompts.
        policies: Weights of the behavior policy and of the current one.
        engine: Samples.
        verify: Turns rollouts into groups.
        adaptation: Composes batches.
        learner: Updates the policy.
        step: Training steps done.
        begin_verifying: Told of each rollout as soon as it is whole, while others are sampled; what
            it begins, `verify` brings to its end. None where nothing is begun early.
    """

    recipe: Recipe
    stream: PromptStream
    policies: PolicySync
    engine: Engine
    verify: Verify
    adaptation: Adaptation
    learner: PolicyUpdater
    step: int = 0
    begin_verifying: Callable[[Rollout], None] | None = None
    _nonfinite_in_a_row: int = 0
    _between: dict[str, float] = field(default_factory=dict)

    def charge(self, phase: str, seconds: float) -> None:
        """Adds time spent since the last step to the next one's metrics.

        Args:
            phase: One of `PHASES`.
            seconds: At least 0.
        """
        self._between[phase] = self._between.get(phase, 0.0) + seconds

    def advance(self) -> StepRecord:
        """Does one training step.

        Raises:
            StoppedStepError: Too many verdicts are not `ok`, or too many steps in a row had a loss
                or gradient that is not finite.
            StaleEngineError: The engine does not hold the weights it should.
        """
        step = self.step + 1
        clock = _Clock(self._between)
        self._between = {}
        sampled = self._sample_groups(step, clock)
        if reason := self._too_many_lost(sampled):
            raise StoppedStepError(reason, self._abandon(sampled, clock))
        composition, refused = self._compose(sampled, clock)
        update = self.learner.update(composition.batch, cap_scale=self.adaptation.cap_scale)
        distances = _step_distances(update, refused)
        record = self._finish(sampled, composition, update, distances, clock)
        self._check_finite(update, record)
        return record

    def _finish(
        self,
        sampled: "_Sampled",
        composition: Composition,
        update: UpdateReport,
        distances: StepDistances,
        clock: "_Clock",
        learned: bool = True,
    ) -> StepRecord:
        """Lets adaptation see the step, counts it, and gives what it leaves behind."""
        step, fresh, retried = sampled.step, sampled.fresh, sampled.retried
        clock.add("proximal", update.seconds_proximal)
        clock.add("update", update.seconds_update)
        with clock.phase("adaptation"):
            seen = (fresh, retried) if learned else ([], [])
            events = self.adaptation.observe(step, *seen)
            self.adaptation.observe_distances(step, distances)
        self.step = step
        composition = composition.after_skipping(update.groups_skipped)
        metrics = step_metrics(
            StepInputs(
                fresh=fresh,
                retried=retried,
                composition=composition,
                update=update,
                adaptation=self.adaptation.metrics(),
                epoch=self.stream.epochs,
                seconds=clock.seconds,
            )
        )
        return StepRecord(metrics, composition, events, verdict_lines(step, fresh, retried))

    def _abandon(self, sampled: "_Sampled", clock: "_Clock") -> StepRecord:
        """Ends a step whose verdicts cannot be trusted: it is counted, and nothing comes of it.

        The groups are neither learned from nor shown to adaptation; what expires, expires. The run
        ends here without a checkpoint, and a resumed one does the step again.
        """
        composition = self.adaptation.abandon(sampled.step, sampled.fresh, sampled.retried)
        update = self.learner.update(composition.batch)
        return self._finish(sampled, composition, update, StepDistances(), clock, learned=False)

    def _compose(self, sampled: "_Sampled", clock: "_Clock") -> "tuple[Composition, _Refused]":
        """The batch, without groups that the policy has left too far behind, and these.

        Reused groups are refused first: while one is too far, no fresh group is refused, and every
        place of a refused one is offered to the rest of the reuse buffer. Every round refuses a
        group that no earlier one has, so there is an end to them.
        """
        limit = self.recipe.adaptation.max_tv
        refused: _Refused = {}
        while True:
            with clock.phase("adaptation"):
                composition = self.adaptation.compose(
                    sampled.step, sampled.fresh, sampled.retried, refused
                )
            if limit >= 1.0:
                return composition, refused
            with clock.phase("proximal"):
                distances = self.learner.behavior_distances(composition.batch)
            pairs = zip(composition.batch.entries, distances, strict=True)
            # A distance that is not a number is not within the limit either.
            far = [(entry, distance) for entry, distance in pairs if not distance <= limit]
            if not far:
                return composition, refused
            reused = [pair for pair in far if pair[0].source is Source.REUSED]
            refused |= {entry.group: (entry.source, far_by) for entry, far_by in reused or far}

    def _sample_groups(self, step: int, clock: "_Clock") -> "_Sampled":
        """B fresh groups, and one of the current policy for each hard prompt that is due.

        Fresh groups become more for as long as informative ones are missing and rounds left. Where
        the behavior policy is the current one, hard prompts are asked in the call of the first
        fresh ones and share the engine's batches, unless `rollout.refill` is off.
        """
        wanted, seed = self.recipe.training.batch_groups, self.recipe.seed
        # A hard prompt may be drawn afresh in the same step; the two groups must not share seeds.
        retry_seed = derived_seed(seed, "retry")
        with clock.phase("sync"):
            version = self.policies.behavior(step, due=self.adaptation.sync_due)
        self.stream.begin_step()
        drawn, hard = self.stream.draw(wanted), self.adaptation.prompts_to_retry(step)
        joining = hard if version == step - 1 and self.recipe.rollout.refill else ()
        seeds = [seed] * len(drawn) + [retry_seed] * len(joining)
        groups = self._sample([*drawn, *joining], version, step, seeds, clock)
        fresh, retried = groups[: len(drawn)], groups[len(drawn) :]
        for _ in range(self.recipe.adaptation.max_resample_rounds):
            if not self.adaptation.missing_fresh(fresh):
                break
            more = self.stream.draw(wanted)
            if not more:
                break
            fresh += self._sample(more, version, step, seed, clock)
        if hard and not joining:
            with clock.phase("sync"):
                version = self.policies.current(step)
            retried = self._sample(hard, version, step, retry_seed, clock)
        return _Sampled(step, fresh, retried)

    def _sample(
        self,
        prompts: Sequence[Prompt],
        version: int,
        step: int,
        seed: int | Sequence[int],
        clock: "_Clock",
    ) -> list[Group]:
        rollout = self.recipe.rollout
        with clock.phase("rollout"):
            rollouts = self.engine.sample(
                prompts,
                version=version,
                group_size=rollout.group_size,
                step=step,
                seed=seed,
                temperature=rollout.temperature,
                on_rollout=self.begin_verifying,
            )
        with clock.phase("reward"):
            return self.verify(rollouts)

    def _too_many_lost(self, sampled: "_Sampled") -> str | None:
        """Why the run has to stop for a step's verdicts, or None where it need not."""
        groups = [*sampled.fresh, *sampled.retried]
        verdicts = [verdict for group in groups for verdict in group.verdicts]
        bad = [verdict for verdict in verdicts if verdict.status is not VerdictStatus.OK]
        # One bad verdict costs its whole group, so few bad verdicts can cost most groups.
        lost = sum(not group.is_verified for group in groups)
        limit = self.recipe.reward.max_invalid_share
        if not lost or lost / len(groups) <= limit:
            return None
        return (
            f"The run stopped at step {sampled.step}: {len(bad)} of {len(verdicts)} verdicts are "
            f"not ok, which costs {lost} of {len(groups)} groups, more than "
            f"'reward.max_invalid_share' ({limit:g}) allows; the first one is "
            f"{bad[0].status.value}: {bad[0].detail}"
        )

    def _check_finite(self, update: UpdateReport, record: StepRecord) -> None:
        if update.nonfinite:
            self._nonfinite_in_a_row += 1
        elif update.updates:  # a step without groups says nothing either way
            self._nonfinite_in_a_row = 0
        limit = self.recipe.training.max_nonfinite_steps
        if self._nonfinite_in_a_row >= limit:
            raise StoppedStepError(
                f"The run stopped at step {self.step}: loss or gradient was not finite in {limit} "
                "steps in a row; lower 'training.learning_rate', or look at the model's number "
                "type.",
                record,
            )

    def state_dict(self) -> dict[str, Any]:
        """The loop's own state; its parts have theirs."""
        return {"step": self.step, "nonfinite_in_a_row": self._nonfinite_in_a_row}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts back what `state_dict` gave."""
        self.step = int(state["step"])
        self._nonfinite_in_a_row = int(state["nonfinite_in_a_row"])


@dataclass(frozen=True, slots=True)
class _Sampled:
    """What one step has sampled, verified or not."""

    step: int
    fresh: list[Group]
    retried: list[Group]


class _Clock:
    """Seconds spent in each phase of a step, and what was charged to it before it began."""

    def __init__(self, seconds: Mapping[str, float]) -> None:
        self.seconds = dict(seconds)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Adds the time of its block to a phase."""
        started = perf_counter()
        try:
            yield
        finally:
            self.add(name, perf_counter() - started)

    def add(self, name: str, seconds: float) -> None:
        """Adds time that was measured elsewhere."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds


def _step_distances(update: UpdateReport, refused: _Refused) -> StepDistances:
    """What a step says about distances; groups that were refused for theirs count as well."""

    def mean(source: Source) -> float | None:
        far = [distance for kind, distance in refused.values() if kind is source]
        return mean_distance([*update.distances.get(source, ()), *far])

    is_fresh_refused = any(source is Source.FRESH for source, _ in refused.values())
    all_refused = is_fresh_refused and not update.distances.get(Source.FRESH)
    return StepDistances(
        fresh=mean(Source.FRESH),
        reused=mean(Source.REUSED),
        moved=update.bound["tv_step"],
        needs_sync=all_refused or update.is_held_by_age,
    )


def _plain(record: GroupFate | BufferEvent) -> dict[str, Any]:
    return {key: value for key, value in asdict(record).items() if key != "step"}
