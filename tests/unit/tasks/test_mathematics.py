"""Arithmetic and word problems: chains, wording, splits, knobs and gold answers."""

import hashlib
from collections import Counter

import numpy as np
import pytest

from bapo.errors import DataError, SettingError
from bapo.reward.verifiers.mathematics import verify
from bapo.tasks.mathematics import (
    INSTRUCTION,
    Event,
    Problem,
    build_mathematics,
    chat_prompt,
    steps_prompt,
    worked_solution,
)
from bapo.tasks.splits import Split
from bapo.training.small_models import symbol_tokenizer
from bapo.types import ChatMessage

CHAIN = (Event("+*", 3, 8), Event("*", 2), Event("-", 13))
EXAMPLE = Problem(24, CHAIN, "Compute (24+3*8)*2-13.")


def rows(split, count, **knobs):
    task = build_mathematics(knobs)
    return [task.row(split, index) for index in range(count)]


def test_a_problem_is_worked_out_one_operation_a_line():
    assert worked_solution(EXAMPLE) == "3*8=24\n24+24=48\n48*2=96\n96-13=83\n\\boxed{83}"
    assert EXAMPLE.answer == 83
    assert EXAMPLE.level == 4
    assert EXAMPLE.identity == "math4-24+3x8*2-13"
    assert steps_prompt(EXAMPLE) == "Compute (24+3*8)*2-13.\n"
    assert chat_prompt(EXAMPLE) == (ChatMessage("user", f"Compute (24+3*8)*2-13.\n{INSTRUCTION}"),)


@pytest.mark.parametrize(
    ("event", "amount", "after"),
    [
        (Event("+", 5), 10, 15),
        (Event("-", 10), 10, None),
        (Event("*", 9), 200, None),
        (Event("/", 4), 10, None),
        (Event("/", 5), 10, 2),
        (Event("-*", 2, 4), 10, 2),
    ],
)
def test_an_amount_stays_a_whole_number_from_1_to_999(event, amount, after):
    assert event.apply(amount) == after


def test_the_first_rows_are_those_that_the_embedded_model_was_made_from():
    written = [repr(row) for split in Split for row in rows(split, 50)]
    digest = hashlib.sha256("".join(written).encode()).hexdigest()
    assert digest.startswith("23b70cb62f6c45f4")


def test_an_expression_has_the_value_of_its_chain():
    """The test's own text, of digits and signs alone, is evaluated here as Python."""
    for problem in rows(Split.TRAINING, 200, forms=["expression"]):
        text = problem.question.removeprefix("Compute ").removesuffix(".")
        assert set(text) <= set("0123456789+-*/()")
        assert eval(text) == problem.answer


def test_every_number_of_a_chain_stands_in_its_story_and_the_last_owner_is_asked_about():
    for problem in rows(Split.TRAINING, 200, forms=["story"], levels=[3]):
        numbers = [problem.start, *(n for e in problem.events for n in (e.n, e.m) if n)]
        words = problem.question.replace(".", "").replace("?", "").split()
        assert Counter(map(str, numbers)) == Counter(word for word in words if word.isdigit())
        assert words[-1] == "have"


@pytest.mark.parametrize("level", [1, 2, 3, 4, 5])
def test_a_level_is_the_number_of_operations(level):
    for problem in rows(Split.TRAINING, 40, levels=[level]):
        assert problem.level == level
        assert worked_solution(problem).count("=") == level


def test_gold_answers_are_right_for_the_verifier_and_their_neighbours_wrong():
    problems = rows(Split.EVALUATION, 100)
    gold = [str(problem.answer) for problem in problems]
    assert all(verify([worked_solution(problem) for problem in problems], gold))
    assert not any(verify([rf"\boxed{{{problem.answer + 1}}}" for problem in problems], gold))


def test_a_row_follows_from_seed_and_index_alone():
    task = build_mathematics({"seed": 7})
    backwards = [task.row(Split.TRAINING, index) for index in reversed(range(20))]
    assert backwards[::-1] == rows(Split.TRAINING, 20, seed=7)
    assert rows(Split.TRAINING, 20, seed=8) != rows(Split.TRAINING, 20, seed=7)


def test_whole_sets_share_no_problem_whatever_the_words():
    task = build_mathematics({"levels": [1], "train_size": 1500})
    training = {prompt.prompt_id for prompt in task.training_prompts()}
    held_out = {prompt.prompt_id for prompt in task.evaluation_prompts(300)}
    cold = {task.row(Split.WARMSTART, index).identity for index in range(500)}
    assert len(training) == 1500
    assert len(held_out) == 300
    assert not training & held_out
    assert not cold & (training | held_out)
    other = build_mathematics({"levels": [1], "seed": 5})
    assert not training & {prompt.prompt_id for prompt in other.evaluation_prompts(300)}


def test_wording_is_no_part_of_the_identity():
    other = Problem(EXAMPLE.start, EXAMPLE.events, "Ann has 24 pens.")
    assert other.identity == EXAMPLE.identity


def test_prompts_and_solutions_are_written_in_the_alphabet():
    task = build_mathematics({})
    tokenizer = symbol_tokenizer(task.alphabet, 192)
    seen = set()
    for index in range(500):
        for text in task.worked_example(index):
            tokens = tokenizer.encode(text)
            assert tokenizer.pad_token_id not in tokens
            assert tokenizer.decode(tokens) == text
            seen.update(tokens)
    assert seen == set(range(2, len(tokenizer)))


def test_a_chat_prompt_asks_for_a_box_and_has_no_worked_example():
    task = build_mathematics({"prompt_format": "chat", "train_size": 3})
    assert all(p.content[0].content.endswith(INSTRUCTION) for p in task.training_prompts())
    with pytest.raises(SettingError, match=r"'task\.prompt_format' is 'chat'"):
        task.worked_example(0)


def test_levels_and_forms_are_drawn_equally():
    drawn = rows(Split.TRAINING, 1200)
    levels = Counter(problem.level for problem in drawn)
    expressions = sum(problem.question.startswith("Compute") for problem in drawn)
    # A chain that leaves the whole numbers is drawn anew, so that longer ones are somewhat rarer.
    assert levels[1] > levels[4] > 100
    assert abs(expressions - 600) < 3 * 18


def test_bad_knobs_are_said_in_one_sentence():
    with pytest.raises(SettingError, match=r"'task\.levels' is \[\], but must be a list"):
        build_mathematics({"levels": []})
    with pytest.raises(SettingError, match=r"'task\.forms' is"):
        build_mathematics({"forms": ["story", "story"]})
    few = {"levels": [1], "forms": ["expression"], "largest": 9, "train_size": 5000}
    with pytest.raises(
        DataError, match=r"Only \d+ different training problems of 'math-1' were found"
    ):
        build_mathematics(few).training_prompts()


def test_drawing_uses_no_global_generator():
    state = np.random.get_state()[1].copy()
    rows(Split.TRAINING, 5)
    assert (np.random.get_state()[1] == state).all()
