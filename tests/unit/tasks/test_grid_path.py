"""Grid path: grids, sides, shortest ways, formats."""

import pytest

from bapo.config import TaskSettings
from bapo.errors import SettingError
from bapo.reward.verifiers.grid_path import verify
from bapo.tasks import build_worked_task
from bapo.tasks.grid_path import chat_prompt, shortest_way


@pytest.fixture(scope="module")
def task():
    return build_worked_task(TaskSettings("grid-path", {"train_size": 60, "fewest_steps": 3}))


def verdict(completion, prompt):
    columns = {name: [value] for name, value in prompt.columns.items()}
    return verify([completion], **columns)[0]


def test_a_shortest_way_goes_around_the_walls():
    assert shortest_way(["*OX", "XOO", "X#O"]) == "RDD"
    assert shortest_way(["*X#", "OXO", "OOO"]) == "DDRRUU"
    assert shortest_way(["#*"]) == "L"


def test_a_grid_without_a_way_has_none():
    assert shortest_way(["*X#"]) is None


def test_whole_sets_share_no_grid(task):
    training = {prompt.prompt_id for prompt in task.training_prompts()}
    held_out = {prompt.prompt_id for prompt in task.evaluation_prompts(20)}
    grids = [prompt.content for prompt in [*task.training_prompts(), *task.evaluation_prompts(20)]]
    shown = {task.worked_example(index)[0] for index in range(60)}
    assert (len(training), len(held_out), len(training & held_out)) == (60, 20, 0)
    assert not shown & set(grids)


def test_a_problem_is_a_line_and_its_level_is_the_length_of_the_shortest_way(task):
    for prompt in task.training_prompts():
        grid = prompt.columns["grid"]
        way = shortest_way(grid)
        assert prompt.content == "/".join(grid) + ">\n"
        assert prompt.level == f"{len(way)} steps"
        assert len(way) >= 3
        assert verdict(way, prompt)["correct"]


def test_worked_examples_are_right_short_and_made_of_the_alphabet(task):
    for index in range(60):
        prompt, way = task.worked_example(index)
        assert set(prompt + way) <= set(task.alphabet)
        assert shortest_way(prompt.removesuffix(">\n").split("/")) == way


def test_with_tags_and_without_shortest():
    options = {"train_size": 5, "shortest": False, "walls": 0.0, "answer_format": "tags"}
    tagged = build_worked_task(TaskSettings("grid-path", options))
    (prompt, *_) = tagged.training_prompts()
    way = shortest_way(prompt.columns["grid"])
    row = next(i for i, line in enumerate(prompt.columns["grid"]) if "*" in line)
    detour = ("DU" if row == 0 else "UD") + way
    assert verdict(f"<answer>{detour}</answer>", prompt)["correct"]
    assert not verdict(detour, prompt)["correct"]
    with pytest.raises(SettingError, match="a cold start needs 'steps'"):
        tagged.worked_example(0)


def test_the_chat_prompt_asks_for_tags():
    (message,) = chat_prompt(["*O", "X#"], shortest=True)
    assert "* O\nX #" in message.content
    assert "as few steps as possible" in message.content
    assert "as few" not in chat_prompt(["*O", "X#"], shortest=False)[0].content
