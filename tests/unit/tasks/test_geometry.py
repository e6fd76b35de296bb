"""Drawn figures: the same everywhere, solved by their worked steps, telling nothing in words."""

import hashlib
import re
from collections import Counter

import numpy as np
import pytest

from bapo.config import TaskSettings
from bapo.errors import SettingError
from bapo.reward.verifiers.geometry import GOLDEN, check_columns, verify
from bapo.tasks import build_task, chance, open_image
from bapo.tasks.drawing import CELL, Canvas
from bapo.tasks.figures import FIGURES
from bapo.tasks.geometry import build_geometry
from bapo.tasks.splits import Split
from bapo.types import ChatMessage, Prompt


def pixels(prompt):
    return np.asarray(open_image(prompt.images[0]))


def test_every_worked_example_is_right_and_written_in_the_alphabet():
    task = build_geometry({})
    figures = Counter()
    for index in range(300):
        text, steps = task.worked_example(index)
        problem = task.row(Split.WARMSTART, index)
        columns = task.prompt(problem).columns
        assert verify([steps], [columns["answer"]], [columns["answer_format"]]) == [True]
        assert set(text.replace("<image>", "") + steps) <= set(task.alphabet)
        figures[problem.figure] += 1
    assert figures.keys() == FIGURES.keys()


@pytest.mark.parametrize(
    ("figure", "numbers", "answer", "steps"),
    [
        ("line", (47,), 133, "180-47=133"),
        ("right", (47,), 43, "90-47=43"),
        ("triangle", (47, 62), 71, "47+62=109,180-109=71"),
        ("exterior", (47, 62), 109, "47+62=109"),
        ("segment", (36, 83), 47, "83-36=47"),
        ("quadrilateral", (80, 95, 70), 115, "80+95=175,175+70=245,360-245=115"),
        ("perimeter", (12, 35, 47), 94, "12+35=47,47+47=94"),
    ],
)
def test_each_figure_has_its_own_sum(figure, numbers, answer, steps):
    assert FIGURES[figure].answer(*numbers) == answer
    assert FIGURES[figure].steps(*numbers) == steps


def test_all_answers_are_positive_whole_numbers():
    for figure in FIGURES.values():
        rng = np.random.default_rng(0)
        drawn = [figure.numbers(rng) for _ in range(2000)]
        assert all(len(numbers) == figure.level for numbers in drawn)
        assert min(figure.answer(*numbers) for numbers in drawn) > 0


def test_the_words_name_no_number_and_are_the_same_for_all():
    for answer_format in ("steps", "tags"):
        prompts = build_geometry({"answer_format": answer_format}).evaluation_prompts(50)
        (content,) = {one.content for one in prompts}
        text = content if isinstance(content, str) else content[0].content
        assert re.sub(r"<answer>42</answer>", "", text).isascii()
        assert not re.search(r"\d", text.replace("<answer>42</answer>", ""))


def test_a_picture_is_the_same_on_every_machine():
    digest = hashlib.blake2b(digest_size=8)
    for prompt in build_geometry({}).evaluation_prompts(30):
        digest.update(pixels(prompt).tobytes())
    assert digest.hexdigest() == "2b25444d3c0d63bc"


def test_numbers_show_in_the_picture():
    for figure in FIGURES.values():
        first, second = ((20 + 7 * n, 30, 40)[: figure.level] for n in (0, 1))
        shown = [
            np.asarray(figure.picture(numbers, 56, np.random.default_rng(3)))
            for numbers in (first, second)
        ]
        assert (shown[0] != shown[1]).any()


def test_a_larger_picture_shows_the_same_figure():
    small = build_geometry({}).evaluation_prompts(3)
    large = build_geometry({"picture_size": 112}).evaluation_prompts(3)
    for one, other in zip(small, large, strict=True):
        assert one.prompt_id == other.prompt_id
        assert pixels(other).shape == (112, 112, 3)
        dark = [(pixels(prompt).mean(axis=2) == 0).mean() for prompt in (one, other)]
        assert dark[0] == pytest.approx(dark[1], abs=1e-3)  # glyphs are scaled, pixel for pixel


def test_a_label_stands_in_whole_cells_and_inside_the_picture():
    canvas = Canvas(56)
    canvas.label("188", (-20.0, 500.0))
    black = np.argwhere(np.asarray(canvas.image).mean(axis=2) == 0)
    assert black.min(axis=0).tolist() == [7 * CELL, 2]  # a 1 is narrow
    assert black.max(axis=0).tolist() == [8 * CELL - 1, 3 * CELL - 2]


def test_splits_share_no_problem():
    task = build_geometry({"train_size": 400})
    training = {one.prompt_id for one in task.training_prompts()}
    held_out = {one.prompt_id for one in task.evaluation_prompts(200)}
    warm = {task.row(Split.WARMSTART, index).identity for index in range(400)}
    assert (len(training), len(held_out)) == (400, 200)
    assert not training & held_out
    assert not warm & (training | held_out)


def test_levels_are_those_asked_for():
    prompts = build_geometry({"levels": [2]}).evaluation_prompts(60)
    assert {one.level for one in prompts} == {"level 2"}
    assert build_geometry({"levels": [2]}).name == "geometry-2"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": []}, "must be a list of different ones"),
        ({"levels": [1, 1]}, "must be a list of different ones"),
        ({"weights": [1, 2]}, "one finite share for each"),
        ({"levels": [1], "weights": [0]}, "one finite share for each"),
        ({"picture_size": 20}, "picture_size"),
        ({"angle": 3}, "Unknown setting 'task.angle'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(SettingError, match=message):
        build_geometry(options)


def test_a_cold_start_needs_worked_steps():
    with pytest.raises(SettingError, match="no worked examples"):
        build_geometry({"answer_format": "tags"}).worked_example(0)


def test_a_blind_task_shows_white_pictures_and_changes_nothing_else():
    seeing = build_task(TaskSettings("geometry")).evaluation_prompts(20)
    blind = build_task(TaskSettings("geometry", blank_images=True))
    assert blind.name == "geometry, blind"
    for one, other in zip(seeing, blind.evaluation_prompts(20), strict=True):
        assert (one.prompt_id, one.content, one.columns) == (
            other.prompt_id,
            other.content,
            other.columns,
        )
        assert pixels(other).shape == pixels(one).shape
        assert (pixels(other) == 255).all()


def test_a_task_without_pictures_cannot_be_blind():
    task = build_task(TaskSettings("countdown", blank_images=True))
    with pytest.raises(SettingError, match="'CD-34' shows no pictures"):
        task.evaluation_prompts(3)


def test_chance_is_the_best_constant_answer_to_each_text():
    def asked(text, answer):
        return Prompt(f"{text}{answer}", text, {"answer": answer})

    prompts = [asked("a", 1), asked("a", 1), asked("a", 2), asked("b", 3), asked("b", 4)]
    assert chance(prompts) == pytest.approx(3 / 5)
    assert chance([*prompts, Prompt("c", (ChatMessage("user", "c"),), {})]) is None
    assert chance([]) is None


def test_chance_is_small_on_the_figures():
    assert chance(build_geometry({"levels": [2, 3]}).evaluation_prompts(512)) < 0.03


@pytest.mark.parametrize(("completion", "columns", "right"), GOLDEN)
def test_the_verifiers_golden_cases(completion, columns, right):
    assert verify([completion], [columns["answer"]], [columns["answer_format"]]) == [right]


def test_columns_that_make_no_sense_are_an_error():
    assert "must be a whole number" in check_columns(answer="60", answer_format="steps")
    assert "must be 'steps' or 'tags'" in check_columns(answer=60, answer_format="boxed")
    with pytest.raises(ValueError, match="whole number"):
        verify(["60"], [True], ["steps"])
