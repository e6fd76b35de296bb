"""Countdown's promises over all knobs."""

from hypothesis import given, settings
from hypothesis import strategies as st

from bapo.reward.verifiers.countdown import verify
from bapo.tasks.countdown import (
    Countdown,
    CountdownSettings,
    Split,
    worked_steps,
)
from tests.countdown_gold import gold_expression

knobs = st.builds(
    CountdownSettings,
    numbers=st.sampled_from([(2,), (3,), (3, 4), (4, 2), (5,), (6, 3)]),
    largest=st.integers(12, 40),  # with these ranges every split has problems
    target_low=st.integers(1, 8),
    target_high=st.integers(80, 400),
    operations=st.sampled_from(["+-*/", "+", "+-", "*+"]),
    seed=st.integers(0, 2**40),
)


@given(knobs, st.integers(0, 2**31), st.sampled_from(list(Split)))
@settings(max_examples=60, deadline=None)
def test_a_row_is_in_its_split_solved_by_its_gold_and_made_again_the_same(chosen, index, split):
    problem = Countdown(chosen).row(split, index)
    assert problem.split is split
    assert problem == Countdown(chosen).row(split, index)
    assert chosen.target_low <= problem.target <= chosen.target_high
    assert len(problem.numbers) in chosen.numbers
    assert all(1 <= number <= chosen.largest for number in problem.numbers)
    scores = verify(
        completions=[worked_steps(problem), f"<answer>{gold_expression(problem)}</answer>"],
        numbers=[list(problem.numbers)] * 2,
        target=[problem.target] * 2,
        answer_format=["steps", "expression"],
    )
    assert [bool(score) for score in scores] == [True, True]


@given(knobs, knobs)
@settings(max_examples=15, deadline=None)
def test_no_held_out_problem_is_trained_on_whatever_the_seeds_and_knobs(one, other):
    def identities(chosen, split):
        return {Countdown(chosen).row(split, index).identity for index in range(25)}

    held_out = identities(one, Split.EVALUATION)
    assert not held_out & identities(other, Split.TRAINING)
    assert not held_out & identities(other, Split.WARMSTART)
    assert not identities(one, Split.WARMSTART) & identities(other, Split.TRAINING)
