"""What a run's evaluations say: accuracy, movement between levels, unsolved problems solved."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bapo.reporting.intervals import Interval, accuracy_interval, ratio_interval
from bapo.reporting.runs import Record, RunRecord
from bapo.reporting.text import number

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class HeldOutPoint:
    """One evaluation on held-out prompts.

    Attributes:
        step: Training steps behind the policy.
        rollouts: Completions sampled for training so far.
        seconds: Training seconds so far, evaluation not counted.
        pass_at_1: Mean correctness rate, in [0, 1].
        pass_at_k: Share of prompts with a correct sample among K, in [0, 1] or NaN.
        samples: K; 0 if unknown.
        prompts: Number of prompts; 0 if unknown.
        interval: 95 % interval of `pass_at_1` over prompts, if there are any.
    """

    step: int
    rollouts: float
    seconds: float
    pass_at_1: float
    pass_at_k: float
    samples: int
    prompts: int
    interval: Interval | None


def held_out_points(run: RunRecord) -> tuple[HeldOutPoint, ...]:
    """The held-out evaluations of a run by step; those without a pass@1 are left out."""
    points = (_held_out_point(record) for record in run.evaluations_of("held_out"))
    return tuple(point for point in points if not math.isnan(point.pass_at_1))


def _held_out_point(record: Record) -> HeldOutPoint:
    samples = _whole(record, "samples")
    rates = np.array(list(prompt_rates(record).values()), dtype=np.float64)
    return HeldOutPoint(
        step=_whole(record, "step"),
        rollouts=number(record, "rollouts"),
        seconds=number(record, "seconds"),
        pass_at_1=number(record, "pass_at_1"),
        pass_at_k=number(record, "pass_at_k"),
        samples=samples,
        prompts=len(rates),
        interval=accuracy_interval(rates, max(samples, 1)),
    )


def before_and_after(run: RunRecord) -> tuple[HeldOutPoint | None, HeldOutPoint | None]:
    """The held-out evaluation of the base (step 0) and the newest of a trained policy."""
    points = held_out_points(run)
    before = points[0] if points and points[0].step == 0 else None
    after = points[-1] if points and points[-1].step > 0 else None
    return before, after


def held_out_ratio_interval(run: RunRecord) -> Interval | None:
    """The 95 % interval of pass@1 after / before over the prompts of both evaluations."""
    records = run.evaluations_of("held_out")
    if len(records) < 2 or number(records[0], "step") != 0:
        return None
    before, after = prompt_rates(records[0]), prompt_rates(records[-1])
    shared = [name for name in before if name in after]
    return ratio_interval(
        np.array([before[name] for name in shared]), np.array([after[name] for name in shared])
    )


def prompt_rates(evaluation: Record) -> dict[str, float]:
    """The correctness rate of each prompt whose samples all have a valid verdict."""
    samples = number(evaluation, "samples")
    rates: dict[str, float] = {}
    for prompt in prompts_of(evaluation):
        valid = number(prompt, "valid")
        correct = number(prompt, "correct")
        if valid == samples and valid > 0 and not math.isnan(correct):
            rates[str(prompt.get("id"))] = correct / valid
    return rates


def prompts_of(evaluation: Record) -> list[Mapping[str, Any]]:
    """The per-prompt results of an evaluation."""
    prompts = evaluation.get("prompts")
    if not isinstance(prompts, Sequence) or isinstance(prompts, str):
        return []
    return [prompt for prompt in prompts if isinstance(prompt, Mapping)]


@dataclass(frozen=True, slots=True)
class LevelAccuracy:
    """Held-out pass@1 of one difficulty label of the task, pooled over runs.

    Attributes:
        level: The task's own label.
        prompts: Different prompts of that label.
        before: The base's pass@1, in [0, 1] or NaN.
        after: The newest evaluation's pass@1, in [0, 1] or NaN.
    """

    level: str
    prompts: int
    before: float
    after: float


def accuracy_by_level(runs: Sequence[RunRecord]) -> list[LevelAccuracy]:
    """Held-out pass@1 for each label that the task gives its prompts, by label."""
    rates: dict[str, tuple[list[float], list[float]]] = {}
    names: dict[str, set[str]] = {}
    for run in runs:
        records = run.evaluations_of("held_out")
        if len(records) < 2 or number(records[0], "step") != 0:
            continue
        for side, record in ((0, records[0]), (1, records[-1])):
            known = prompt_rates(record)
            for prompt in prompts_of(record):
                name, level = str(prompt.get("id")), str(prompt.get("level") or "")
                if name in known:
                    rates.setdefault(level, ([], []))[side].append(known[name])
                    names.setdefault(level, set()).add(name)
    return [
        LevelAccuracy(level, len(names[level]), _mean(before), _mean(after))
        for level, (before, after) in sorted(rates.items())
    ]


@dataclass(frozen=True, slots=True)
class DifficultyLevel:
    """A range of correct answers among K; `low` and `high` are counts, both included."""

    low: int
    high: int

    @property
    def label(self) -> str:
        """`0`, or `1–2`."""
        return str(self.low) if self.low == self.high else f"{self.low}–{self.high}"


def difficulty_levels(samples: int) -> tuple[DifficultyLevel, ...]:
    """The levels for K samples: none, up to a quarter, up to half, more, all.

    For K = 8 these are 0, 1–2, 3–4, 5–7 and 8.
    """
    ends = [0, samples // 4, samples // 2, samples - 1, samples]
    levels = [DifficultyLevel(0, 0)]
    for end in ends[1:]:
        start = levels[-1].high + 1
        if end >= start:
            levels.append(DifficultyLevel(start, end))
    return tuple(levels)


@dataclass(frozen=True, slots=True, eq=False)
class Movement:
    """How many training prompts went from one difficulty level to another.

    Attributes:
        levels: The difficulty levels, hardest first.
        counts: `(L, L)` prompts that were in the row's level before and in the column's after.
        samples: K, samples per prompt.
        left_out: Prompts left out since a verdict of theirs was not ok.
        runs: Runs that these counts are pooled over.
    """

    levels: tuple[DifficultyLevel, ...]
    counts: IntArray
    samples: int
    left_out: int
    runs: int = 1

    @property
    def unsolved(self) -> int:
        """Prompts that were all wrong before."""
        return int(self.counts[0].sum())

    @property
    def unsolved_solved(self) -> int:
        """Prompts that were all wrong before and had a correct answer after."""
        return int(self.counts[0, 1:].sum())


def trained_movement(run: RunRecord) -> Movement | None:
    """Training prompts from the base to the trained policy; None before the run's end."""
    records = run.evaluations_of("training")
    if len(records) < 2 or number(records[0], "step") != 0:
        return None
    return _movement(records[0], records[-1])


def control_movement(run: RunRecord) -> Movement | None:
    """The same prompts from the base to the base asked again: what chance alone moves."""
    records = run.evaluations_of("training")
    again = run.evaluations_of("training_again")
    if not records or not again or number(records[0], "step") != 0:
        return None
    return _movement(records[0], again[0])


def pooled(movements: Sequence[Movement | None]) -> Movement | None:
    """The movements of several runs added up; only those with the K of the first."""
    known = [movement for movement in movements if movement is not None]
    known = [movement for movement in known if movement.samples == known[0].samples]
    if not known:
        return None
    return Movement(
        known[0].levels,
        np.sum([movement.counts for movement in known], axis=0),
        known[0].samples,
        sum(movement.left_out for movement in known),
        len(known),
    )


def _movement(before: Record, after: Record) -> Movement | None:
    samples = _whole(before, "samples")
    if samples < 1 or samples != _whole(after, "samples"):
        return None
    levels = difficulty_levels(samples)
    first, second = _correct_counts(before, samples), _correct_counts(after, samples)
    counts = np.zeros((len(levels), len(levels)), dtype=np.int64)
    left_out = 0
    for name, correct in first.items():
        again = second.get(name)
        if correct is None or again is None:
            left_out += 1
        else:
            counts[_level_index(levels, correct), _level_index(levels, again)] += 1
    return Movement(levels, counts, samples, left_out) if counts.any() else None


def _correct_counts(evaluation: Record, samples: int) -> dict[str, int | None]:
    """Correct answers by prompt id; None where not all K samples have a valid verdict."""
    return {
        str(prompt.get("id")): _whole(prompt, "correct")
        if _whole(prompt, "valid") == samples and 0 <= _whole(prompt, "correct") <= samples
        else None
        for prompt in prompts_of(evaluation)
    }


def _level_index(levels: tuple[DifficultyLevel, ...], correct: int) -> int:
    return next(index for index, level in enumerate(levels) if correct <= level.high)


@dataclass(frozen=True, slots=True)
class UnsolvedSolved:
    """Training problems that the base always failed, and how many were solved after.

    Attributes:
        unsolved: Problems whose K samples of the base were all wrong.
        solved: Those with a correct sample among K of the trained policy.
        asked_again: The unsolved problems that the base was asked K times again; 0 if it was not.
        by_base: Those with a correct sample among these.
    """

    unsolved: int
    solved: int
    asked_again: int
    by_base: int

    @property
    def share(self) -> float:
        """Solved after training, in [0, 1]; NaN if none was unsolved."""
        return self.solved / self.unsolved if self.unsolved else math.nan

    @property
    def control(self) -> float:
        """Solved by the base asked again, in [0, 1]; NaN if not measured."""
        return self.by_base / self.asked_again if self.asked_again else math.nan


def unsolved_solved(run: RunRecord) -> UnsolvedSolved | None:
    """Counts from the evaluations of the training prompts, or else from the run's own summary."""
    trained, control = trained_movement(run), control_movement(run)
    if trained is not None:
        again = (0, 0) if control is None else (control.unsolved, control.unsolved_solved)
        return UnsolvedSolved(trained.unsolved, trained.unsolved_solved, *again)
    names = ("unsolved", "unsolved_solved", "unsolved_solved_by_base")
    unsolved, solved, by_base = (number(run.summary or {}, name) for name in names)
    if math.isnan(unsolved) or math.isnan(solved):
        return None
    if math.isnan(by_base):
        return UnsolvedSolved(int(unsolved), int(solved), 0, 0)
    return UnsolvedSolved(int(unsolved), int(solved), int(unsolved), int(by_base))


def _whole(record: Mapping[str, Any], name: str) -> int:
    value = number(record, name)
    return -1 if math.isnan(value) else int(value)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan
