from collections import Counter
from collections.abc import Sequence
from itertools import permutations

import pytest

from bapo.adaptation import Band
from bapo.adaptation.composer import Composer
from bapo.adaptation.packed import pack
from bapo.config import AdaptationSettings
from tests.builders import make_group

EVERYTHING = Band(0.0, 1.0)


def reused(eligible, *, batch_groups, step=1, seed=0):
    """The prompts of a batch that has nothing but reused groups, in the order of the draw."""
    composer = Composer(AdaptationSettings(), batch_groups=batch_groups, seed=seed)
    composition = composer.compose(
        step, [], [], previous_rate=lambda _: 0.0, eligible=eligible, band=EVERYTHING
    )
    return tuple(entry.group.prompt_id for entry in composition.batch.entries)


class Watched(Sequence):
    """A very long list of groups that notes which places are looked at."""

    def __init__(self, length):
        self.length, self.looked_at = length, set()

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        self.looked_at.add(index)
        return pack(make_group(f"p{index}", "10"))


def test_every_order_of_the_eligible_groups_is_as_likely_as_any_other():
    """3000 steps, 6 orders: 500 each, with a standard deviation of 20."""
    groups = [pack(make_group(name, "10")) for name in "abc"]
    found = Counter(reused(groups, batch_groups=3, step=step) for step in range(3000))
    assert set(found) == set(permutations("abc"))
    assert all(420 < count < 580 for count in found.values())


def test_every_eligible_group_is_as_likely_to_be_drawn():
    """2 of 10 in 3000 steps: 600 each, with a standard deviation of 22."""
    groups = [pack(make_group(name, "10")) for name in "abcdefghij"]
    found = Counter(
        name for step in range(3000) for name in reused(groups, batch_groups=2, step=step)
    )
    assert len(found) == 10
    assert all(510 < count < 690 for count in found.values())


@pytest.mark.parametrize("length", [1, 2, 7, 40])
def test_no_group_is_drawn_twice_and_all_are_in_the_end(length):
    groups = [pack(make_group(f"p{number}", "10")) for number in range(length)]
    for step in range(20):
        assert sorted(reused(groups, batch_groups=100, step=step)) == sorted(
            group.prompt_id for group in groups
        )


def test_a_draw_looks_at_no_more_groups_than_the_batch_needs():
    eligible = Watched(10_000_000)
    assert len(reused(eligible, batch_groups=32)) == 32
    assert len(eligible.looked_at) == 32


def test_the_draw_is_a_function_of_seed_and_step():
    eligible = Watched(1000)
    first = reused(eligible, batch_groups=8)
    assert reused(eligible, batch_groups=8) == first
    assert reused(eligible, batch_groups=8, step=2) != first
    assert reused(eligible, batch_groups=8, seed=1) != first


def test_of_the_eligible_groups_only_those_that_are_taken_are_unpacked():
    """Few prompts with many groups each: the others are passed over by their names alone."""
    unpacked = []

    class Candidate:
        def __init__(self, number):
            self.prompt_id, self.number = f"p{number % 3}", number

        @property
        def group(self):
            unpacked.append(self.number)
            return make_group(self.prompt_id, "10")

    taken = reused([Candidate(number) for number in range(300)], batch_groups=8)
    assert sorted(taken) == ["p0", "p1", "p2"]
    assert len(unpacked) == 3
