"""Tasks of reasoning-gym by name: rows, sides, options, refusals."""

import importlib.util
import json

import pytest

from bapo.config import TaskSettings
from bapo.errors import DataError, SettingError
from bapo.reward.verifiers.gym import check_columns, decode, verify
from bapo.tasks import build_task
from bapo.tasks.gym_rows import BLOCK, RefusedError, encode, fits, level_of, rows

FEW = ("chain_sum", "arc_agi")


def judged(prompt, completion):
    (verdict,) = verify([completion], **{name: [v] for name, v in prompt.columns.items()})
    return verdict


@pytest.fixture(scope="module", params=FEW)
def task(request):
    return build_task(TaskSettings(f"gym:{request.param}", {"train_size": 12}))


def test_gold_answers_are_right_and_others_are_not(task):
    for prompt in task.training_prompts():
        columns = json.loads(json.dumps(prompt.columns))
        gold = decode(columns["gym_entry"])["answer"]
        assert check_columns(**columns) == ""
        assert judged(prompt, f"<answer>\n{gold}\n</answer>") == {"correct": True, "score": 1.0}
        assert not judged(prompt, "<answer>nonsense</answer>")["correct"]
        assert not judged(prompt, gold)["correct"]  # no tag


def test_the_sides_share_no_question(task):
    training, held_out = task.training_prompts(), task.evaluation_prompts(4)
    assert (len(training), len(held_out)) == (12, 4)
    texts = [prompt.content[0].content for prompt in [*training, *held_out]]
    assert len(set(texts)) == 16
    assert len({prompt.prompt_id for prompt in [*training, *held_out]}) == 16


def test_prompts_do_not_depend_on_the_order_of_asking_nor_on_how_many():
    small, large = (build_task(TaskSettings("gym:ransom_note", {"train_size": n})) for n in (9, 60))
    held_out = large.evaluation_prompts(9)
    assert large.training_prompts()[:9] == small.training_prompts()
    assert held_out[:4] == small.evaluation_prompts(4)


def test_another_seed_gives_other_problems_and_not_the_same_ones_shifted():
    zero, one = ({row["question"] for row in rows("chain_sum", {}, seed, 0, 50)} for seed in (0, 1))
    assert len(zero & one) <= 2


def test_a_row_follows_from_seed_and_index_alone():
    across = rows("chain_sum", {}, 3, BLOCK - 2, BLOCK + 2)
    alone = [rows("chain_sum", {}, 3, index, index + 1)[0] for index in range(BLOCK - 2, BLOCK + 2)]
    assert across == alone


def test_the_level_is_the_problems_own_and_not_the_range():
    (row,) = rows("tower_of_hanoi", {"min_disks": 4, "max_disks": 4}, 0, 0, 1)
    assert row["level"] in ("num_disks=4 num_pegs=3", "num_disks=4 num_pegs=4")
    assert level_of({"difficulty": {"n": [1, 9], "m": 2}}) == "m=2"
    assert level_of({"difficulty": 1.5}) == "1.5"
    assert level_of({}) == ""


def test_options_and_the_text_format():
    options = {"max_terms": 2, "train_size": 5, "answer_format": "text"}
    (prompt, *_) = build_task(TaskSettings("gym:chain_sum", options)).training_prompts()
    gold = prompt.columns["gym_entry"]["answer"]
    assert prompt.columns["gym_options"] == {"max_terms": 2}
    assert prompt.level.startswith("num_terms=2 ")
    assert prompt.content.endswith("\n")
    assert judged(prompt, f" {gold}\n")["correct"]
    assert judged(prompt, f"{gold}0")["correct"] is False


MISTAKES = [
    ("tower_of_hanio", {}, r"^Unknown gym task 'tower_of_hanio': did you mean 'tower_of_hanoi'\?$"),
    (
        "tower_of_hanoi",
        {"max_disk": 3},
        r"has no option 'max_disk'; it has min_disks, max_disks, min_pegs, max_pegs, visualize\.$",
    ),
    ("tower_of_hanoi", {"max_disks": "3"}, r"'max_disks' .* must be of type int, but is '3'; its"),
    ("tower_of_hanoi", {"max_disks": 1}, r"refuses its options \(AssertionError: max_disks must"),
    ("tower_of_hanoi", {"size": 10}, r"has no option 'size'"),
    ("coin_flip", {}, r"^The gym task 'coin_flip' is not served: its scorer gives the answer '0'"),
    ("composite", {}, r"^The gym task 'composite' is not served: it mixes other tasks"),
]


@pytest.mark.parametrize(("name", "options", "sentence"), MISTAKES)
def test_a_mistake_is_one_sentence(name, options, sentence):
    with pytest.raises(RefusedError, match=sentence) as caught:
        rows(name, options, 0, 0, 0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_disk": 3}, "has no option 'max_disk'; it has min_disks"),
        ({"train_size": 0}, "'task.train_size' is 0, but must be at least 1"),
        ({"max_disks": float("nan")}, "'task.max_disks' is nan, but must be a text"),
    ],
)
def test_a_mistake_in_a_recipe_is_an_error_of_the_recipe(options, sentence):
    with pytest.raises(SettingError, match=sentence):
        build_task(TaskSettings("gym:tower_of_hanoi", options))


def test_too_few_problems_are_said_with_their_number():
    options = {"max_disks": 3, "max_pegs": 3}  # six ways from a peg to another
    task = build_task(TaskSettings("gym:tower_of_hanoi", options))
    with pytest.raises(
        DataError, match=r"^Only [1-6] different training problems of 'gym:tower_of"
    ):
        task.training_prompts()


def test_without_the_package_the_sentence_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SettingError, match=r"needs reasoning-gym, .* install bapo\[gym\]\.$"):
        build_task(TaskSettings("gym:chain_sum"))


@pytest.mark.parametrize(
    ("value", "hint", "right"),
    [
        (3, int, True),
        (True, int, False),
        (3, float, True),
        ("a", str, True),
        (None, int | None, True),
        ([1, 2], tuple[int, ...], True),
        ([1, "a"], list[int], False),
        ({"a": 1}, dict[str, int], True),
        (3, list[int], False),
    ],
)
def test_values_of_a_recipe_are_held_against_the_types_that_gym_declares(value, hint, right):
    assert fits(value, hint) is right


def test_an_entry_survives_json_exactly():
    entry = {"a": (1, (2, [3.5, None])), "b": {1: "x", (2, 3): {"y": ()}}, "c": [{"$d": True}]}
    assert decode(json.loads(json.dumps(encode(entry)))) == entry
