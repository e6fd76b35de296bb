"""Random scripts of training steps, and the run of an `Adaptation` through one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

from bapo.adaptation import Adaptation, BufferEvent, Composition
from bapo.config import AdaptationSettings
from bapo.types import Group, Prompt
from tests.builders import make_group

Draw = tuple[str, str]  # prompt id and verdict pattern


@dataclass(frozen=True)
class Script:
    """Settings, and for each step the fresh groups and the patterns of retried ones."""

    settings: AdaptationSettings
    batch_groups: int
    seed: int
    fresh: Sequence[Sequence[Draw]]
    retries: Sequence[Sequence[str]]

    def adaptation(self) -> Adaptation:
        return Adaptation(self.settings, batch_groups=self.batch_groups, seed=self.seed)


@dataclass(frozen=True)
class Played:
    """What happened in one step."""

    step: int
    hard_before: tuple[Prompt, ...]
    fresh: tuple[Group, ...]
    retried: tuple[Group, ...]
    composition: Composition
    events: tuple[BufferEvent, ...]


def play(adaptation: Adaptation, script: Script, first: int = 1) -> Iterator[Played]:
    """Plays the steps of a script from step `first` on."""
    for step in range(first, len(script.fresh) + 1):
        yield play_step(adaptation, script, step)


def play_step(adaptation: Adaptation, script: Script, step: int) -> Played:
    """Plays one step, counted from 1; retried prompts get the step's patterns in turn."""
    fresh = tuple(
        make_group(prompt_id, pattern, step=step, version=max(0, step - 2), tokens=1)
        for prompt_id, pattern in script.fresh[step - 1]
    )
    hard = adaptation.prompts_to_retry(step)
    patterns = script.retries[step - 1]
    retried = tuple(
        make_group(prompt, patterns[index % len(patterns)], step=step, version=step - 1, tokens=1)
        for index, prompt in enumerate(hard)
    )
    composition = adaptation.compose(step, fresh, retried)
    events = adaptation.observe(step, fresh, retried)
    return Played(step, hard, fresh, retried, composition, events)


@st.composite
def patterns(draw: st.DrawFn) -> str:
    """Verdicts of a group of 2 to 9, often all wrong, all right or just at a threshold."""
    size = draw(st.integers(2, 9))
    right = draw(st.sampled_from([0, 0, 0, 1, 2, size // 2, size - 1, size]))
    pattern = ("1" * right + "0" * size)[:size]
    return draw(st.sampled_from([pattern] * 5 + ["t" + pattern[1:]]))


def rate_pairs() -> st.SearchStrategy[tuple[float, float]]:
    """Two rates of which the second is not the smaller."""
    pair = st.tuples(st.integers(0, 24), st.integers(0, 24))
    return pair.map(lambda p: (min(p) / 24, max(p) / 24))


@st.composite
def adaptation_settings(draw: st.DrawFn) -> AdaptationSettings:
    """Settings over the whole range of what the rooms allow."""
    starts, ends = draw(rate_pairs()), draw(rate_pairs())
    return AdaptationSettings(
        filter_fresh=draw(st.sampled_from([True, True, True, False])),
        when_short=draw(st.sampled_from(["train", "train", "skip"])),
        retry=draw(st.sampled_from([True, True, True, False])),
        retry_every=draw(st.integers(1, 3)),
        hard_threshold=draw(st.sampled_from([0.0, 0.125, 0.25, 0.5])),
        hard_capacity=draw(st.sampled_from([None, 1, 2, 5])),
        max_retries=draw(st.integers(1, 3)),
        retry_accept=draw(st.sampled_from(["above_c1", "improved"])),
        reuse=draw(st.sampled_from([True, True, True, False])),
        reuse_window=draw(st.integers(1, 4)),
        reuse_retried=draw(st.booleans()),
        band=draw(st.sampled_from(["rising", "fixed", "falling"])),
        reuse_low_range=(starts[0], ends[0]),
        reuse_high_range=(starts[1], ends[1]),
        reuse_fixed=draw(rate_pairs()),
        band_half_life=draw(st.sampled_from([0.5, 1.0, 5.0])),
    )


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    """Two to eight steps over at most seven prompts, so that prompts meet themselves often."""
    steps = draw(st.integers(2, 8))
    prompt_ids = st.sampled_from("abcdefg")
    fresh = st.lists(st.tuples(prompt_ids, patterns()), max_size=5)
    return Script(
        settings=draw(adaptation_settings()),
        batch_groups=draw(st.integers(1, 5)),
        seed=draw(st.integers(0, 5)),
        fresh=draw(st.lists(fresh, min_size=steps, max_size=steps)),
        retries=draw(
            st.lists(st.lists(patterns(), min_size=1, max_size=3), min_size=steps, max_size=steps)
        ),
    )
