"""One evaluation: K completions for each of a set of prompts, sampled and verified."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bapo.evaluation.passk import pass_at_k
from bapo.rollout import Engine
from bapo.types import Group, Prompt, Rollout, VerdictStatus

Verify = Callable[[Sequence[Rollout]], list[Group]]


@dataclass(frozen=True, slots=True)
class PromptResult:
    """What one prompt came to.

    Attributes:
        id: The prompt.
        level: Its difficulty label.
        correct: Correct completions.
        valid: Completions with a verdict `ok`; only these count.
    """

    id: str
    level: str
    correct: int
    valid: int


@dataclass(frozen=True, slots=True)
class Example:
    """One completion, kept to be looked at."""

    prompt_id: str
    level: str
    prompt: str
    completion: str
    correct: bool
    status: str
    detail: str


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of one evaluation.

    Attributes:
        split: `held_out`, `training` or `training_again`.
        samples: K, completions per prompt.
        prompts: One for each prompt, in order.
        examples: A few completions, right ones and wrong ones in turn as far as there are both.
    """

    split: str
    samples: int
    prompts: tuple[PromptResult, ...]
    examples: tuple[Example, ...]

    @property
    def whole(self) -> list[PromptResult]:
        """The prompts whose K completions all have a valid verdict; all shares are over these."""
        return [one for one in self.prompts if one.valid == self.samples]

    @property
    def valid_share(self) -> float:
        """Share of completions with a valid verdict, in [0, 1]."""
        asked = self.samples * len(self.prompts)
        return sum(one.valid for one in self.prompts) / asked if asked else 1.0

    @property
    def pass_at_1(self) -> float | None:
        """Mean share of correct completions; None if no prompt has K valid verdicts."""
        return _mean([one.correct / one.valid for one in self.whole])

    @property
    def pass_at_k(self) -> float | None:
        """Mean chance that one of K is correct; None likewise."""
        return _mean([pass_at_k(one.valid, one.correct, self.samples) for one in self.whole])

    @property
    def all_wrong_share(self) -> float | None:
        """Share of prompts none of whose completions is correct; None likewise."""
        return _mean([float(one.correct == 0) for one in self.whole])

    def of_level(self, level: str | None) -> "Evaluation":
        """The part of the evaluation that is about one difficulty level; None means all of it."""
        kept = tuple(one for one in self.prompts if level is None or one.level == level)
        return Evaluation(self.split, self.samples, kept, ())

    def as_line(self) -> dict[str, Any]:
        """The evaluation as an object of evaluation.jsonl, without what the loop adds."""
        return {
            "split": self.split,
            "samples": self.samples,
            "valid_share": self.valid_share,
            "pass_at_1": self.pass_at_1,
            "pass_at_k": self.pass_at_k,
            "all_wrong_share": self.all_wrong_share,
            "prompts": [asdict(one) for one in self.prompts],
        }


def evaluate(
    engine: Engine,
    verify: Verify,
    prompts: Sequence[Prompt],
    *,
    split: str,
    version: int,
    samples: int,
    seed: int,
    temperature: float,
    examples: int = 0,
    begin_verifying: Callable[[Rollout], None] | None = None,
) -> Evaluation:
    """Samples and verifies K completions for each prompt.

    The same seed gives every policy the same random numbers, which takes noise out of comparisons.

    Args:
        engine: Holds the weights of `version`.
        verify: Turns rollouts into groups.
        prompts: What to ask.
        split: The name of this set of prompts.
        version: The weights to measure.
        samples: K, at least 1.
        seed: Of the sampling; apart from training's.
        temperature: Of the sampling.
        examples: Completions to keep as text.
        begin_verifying: Told of each rollout as soon as it is whole, while others are sampled; what
            it begins, `verify` brings to its end.
    """
    groups = verify(
        engine.sample(
            prompts,
            version=version,
            group_size=samples,
            step=0,
            seed=seed,
            temperature=temperature,
            on_rollout=begin_verifying,
        )
    )
    results = tuple(_result(group) for group in groups)
    return Evaluation(split, samples, results, _examples(groups, examples))


def _result(group: Group) -> PromptResult:
    valid = [one for one in group.verdicts if one.status is VerdictStatus.OK]
    prompt = group.rollout.prompt
    return PromptResult(
        prompt.prompt_id, prompt.level, sum(one.correct for one in valid), len(valid)
    )


def _examples(groups: Sequence[Group], count: int) -> tuple[Example, ...]:
    """Right and wrong completions in turn, each of another prompt."""
    wanted = True
    chosen: list[Example] = []
    left = list(groups)
    while left and len(chosen) < count:
        place = next((i for i, group in enumerate(left) if _has(group, wanted)), 0)
        chosen.append(_example(left.pop(place), wanted))
        wanted = not wanted
    return tuple(chosen)


def _has(group: Group, correct: bool) -> bool:
    return any(one.correct is correct for one in group.verdicts)


def _example(group: Group, correct: bool) -> Example:
    prompt = group.rollout.prompt
    place = next((i for i, one in enumerate(group.verdicts) if one.correct is correct), 0)
    verdict = group.verdicts[place]
    content = prompt.content
    text = content if isinstance(content, str) else "\n".join(turn.content for turn in content)
    return Example(
        prompt.prompt_id,
        prompt.level,
        text,
        group.rollout.completions[place].text,
        verdict.correct,
        verdict.status.value,
        verdict.detail,
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
