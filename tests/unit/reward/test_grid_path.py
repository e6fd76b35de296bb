"""Grid path, step by step: what is right, and where a plan fails."""

import pytest

from bapo.config import RewardSettings
from bapo.reward import VerifierPool, check_verifier
from bapo.reward.verifiers.grid_path import GOLDEN, check_columns, fault_of, verify

GRID = ["*OX", "XOO", "X#O"]


@pytest.mark.parametrize(("completion", "columns", "expected"), GOLDEN)
def test_golden_cases(completion, columns, expected):
    batch = {name: [value] for name, value in columns.items()}
    assert verify([completion], **batch)[0]["correct"] is expected


@pytest.mark.parametrize(
    ("plan", "sentence"),
    [
        ("RDD", ""),
        ("DDR", "Step 1, D, runs into the wall at row 2, column 1."),
        ("RL L", "Step 3, L, leaves the grid."),
        ("RU", "Step 2, U, leaves the grid."),
        ("RXD", "Step 2, 'X', is none of R, D, L, U."),
        ("RD", "After 2 steps it is at row 2, column 2, no goal."),
        ("RDDU", "After 4 steps it is at row 2, column 2, no goal."),
        ("RDRDL", "It takes 5 steps where 3 are enough."),
        ("", "After 0 steps it is at row 1, column 1, no goal."),
        ("R" * 20_000, "It has more than 10000 characters."),
    ],
)
def test_the_verdict_says_where_a_plan_fails(plan, sentence):
    assert fault_of(plan, GRID, 3) == sentence


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"grid": "*#"}, "'grid' must be a list of lines of equal length, but is '.#'"),
        ({"grid": ["*O", "#"]}, "lines of equal length"),
        ({"grid": ["**", "#O"]}, "one . and one #"),
        ({"most_steps": "3"}, "'most_steps' must be a whole number or null, but is '3'"),
        ({"answer_format": "text"}, "'steps' or 'tags', but is 'text'"),
    ],
)
def test_columns_that_make_no_sense_are_an_error_and_not_a_wrong_answer(change, sentence):
    columns = {"grid": GRID, "most_steps": 3, "answer_format": "steps", **change}
    with pytest.raises(ValueError, match=sentence):
        verify(["RDD"], **{name: [value] for name, value in columns.items()})
    assert check_columns(**columns)


def test_the_detail_of_a_wrong_plan_comes_out_of_the_pool():
    columns = {"grid": GRID, "most_steps": 3, "answer_format": "steps"}
    name = "bapo.reward.verifiers.grid_path:verify"
    with VerifierPool(name, RewardSettings(workers=1)) as pool:
        assert check_verifier(pool) == len(GOLDEN)
        right, wrong = pool.verify([("RDD", columns), ("DDR", columns)])
    assert (right.correct, right.score, right.detail) == (True, 1.0, "")
    assert (wrong.correct, wrong.score) == (False, 0.0)
    assert wrong.detail == "Step 1, D, runs into the wall at row 2, column 1."
