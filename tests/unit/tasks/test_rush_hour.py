"""Rush hour: boards, sides, shortest plans, formats."""

import random
from pathlib import Path

import pytest

from bapo.config import TaskSettings
from bapo.errors import SettingError
from bapo.reward.verifiers.rush_hour import check_columns, fault_of, verify
from bapo.tasks import build_task, build_worked_task
from bapo.tasks.rush_hour import chat_prompt, shortest_plan

BOARD = "oooooo" "ooBooo" "AABooo" "oooooo" "oooooo" "CCCooo"  # fmt: skip


@pytest.fixture(scope="module")
def task():
    return build_worked_task(TaskSettings("rush-hour", {"train_size": 40, "most_slides": 4}))


def test_a_shortest_plan_has_the_fewest_slides():
    assert shortest_plan(BOARD) == "B+2 A+4"
    blocked_above = "ooxooo" + "ooBooo" + BOARD[12:]
    assert len(shortest_plan(blocked_above).split()) == 2
    assert shortest_plan("o" * 12 + "ooAAoo" + "o" * 18) == "A+2"


def test_plans_are_right_and_as_short_as_the_data_base_says():
    reasoning_gym = pytest.importorskip("reasoning_gym")
    file = Path(reasoning_gym.__file__).parent / "data" / "rush_18k.txt"
    known = [line.split()[:2] for line in file.read_text().splitlines()]
    assert not any(check_columns(board, "steps") for _, board in known)
    short = [(int(moves), board) for moves, board in known if int(moves) <= 7]
    for moves, board in random.Random(0).sample(short, 60):
        plan = shortest_plan(board)
        assert (len(plan.split()), fault_of(plan, board)) == (moves, "")


def test_whole_sets_share_no_board_and_keep_to_the_knobs(task):
    training, held_out = task.training_prompts(), task.evaluation_prompts(10)
    boards = {prompt.prompt_id for prompt in [*training, *held_out]}
    shown = {task.worked_example(index)[0].strip() for index in range(40)}
    assert (len(training), len(held_out), len(boards)) == (40, 10, 50)
    assert not shown & boards
    assert {prompt.level for prompt in training} <= {f"{n} slides" for n in (1, 2, 3, 4)}
    assert training[0].content == training[0].columns["board"] + "\n"


def test_worked_examples_are_right_and_made_of_the_alphabet(task):
    for index in range(20):
        prompt, plan = task.worked_example(index)
        assert set(prompt + plan) <= set(task.alphabet)
        assert verify([plan], [prompt.strip()], ["steps"]) == [{"correct": True, "detail": ""}]


def test_the_chat_prompt_shows_the_board_line_by_line():
    (message,) = chat_prompt(BOARD)
    assert "o o B o o o\nA A B o o o\n" in message.content
    assert "<answer>" in message.content


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"fewest_slides": 9}, "'task.fewest_slides' is 9, above 'task.most_slides'"),
        ({"most_slide": 9}, r"Unknown setting 'task.most_slide': did you mean 'most_slides'\?"),
    ],
)
def test_knobs_that_do_not_fit_are_one_sentence(options, sentence):
    with pytest.raises(SettingError, match=sentence):
        build_task(TaskSettings("rush-hour", options))
