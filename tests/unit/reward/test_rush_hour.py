"""Rush hour, slide by slide: what is right, and where a plan fails."""

import pytest

from bapo.reward.verifiers.rush_hour import GOLDEN, fault_of, verify

BOARD = "oooooo" "ooBooo" "AABooo" "oooooo" "oooooo" "CCCooo"  # fmt: skip


@pytest.mark.parametrize(("completion", "columns", "expected"), GOLDEN)
def test_golden_cases(completion, columns, expected):
    batch = {name: [value] for name, value in columns.items()}
    assert verify([completion], **batch)[0]["correct"] is expected


@pytest.mark.parametrize(
    ("plan", "sentence"),
    [
        ("B-1 A+4", ""),
        ("A+4", "Slide 1, A+4, runs into what stands in the way."),
        ("B+3", "Slide 1, B+3, runs into what stands in the way."),
        ("C+4", "Slide 1, C+4, leaves the board."),
        ("C-1", "Slide 1, C-1, leaves the board."),
        ("B-2", "Slide 1, B-2, leaves the board."),
        ("B-1 Z+1", "Slide 2, Z+1: there is no car Z."),
        ("B-1 A+0", "Slide 2, 'A+0', cannot be read."),
        ("B-1A+4", "Slide 1, 'B-1A+4', cannot be read."),
        ("B-1 A+3", "After the last slide car A has not reached the right edge."),
        ("A+1 " * 5000, "It has more than 10000 characters."),
    ],
)
def test_the_verdict_says_where_a_plan_fails(plan, sentence):
    assert fault_of(plan, BOARD) == sentence


def test_what_the_gym_lets_pass_is_wrong_here():
    """Its scorer passes over slides that are not possible, and cuts those that go too far."""
    rush_hour = pytest.importorskip("reasoning_gym").games.rush_hour
    gym = rush_hour.RushHourDataset(rush_hour.RushHourConfig())
    entry = {"metadata": {"board_config": BOARD}}
    for plan in ("B-9 A+9", "A+4 Q+1 B-1 A+4", "no B-1 but A+4"):
        assert gym.score_answer(plan, entry) == 1.0
        assert fault_of(plan, BOARD)


@pytest.mark.parametrize(
    ("board", "sentence"),
    [
        ("AAooo", "must be 36 cells"),
        (BOARD.replace("A", "a"), "must be 36 cells"),
        (BOARD.replace("A", "o"), "must have car A in its third row"),
        ("AA" + BOARD[2:], "the car A, whose cells are no line"),
        ("D" + BOARD[1:], "the car D, whose cells are no line"),
    ],
)
def test_boards_that_make_no_sense_are_an_error_and_not_a_wrong_answer(board, sentence):
    with pytest.raises(ValueError, match=sentence):
        verify(["A+1"], [board], ["steps"])
