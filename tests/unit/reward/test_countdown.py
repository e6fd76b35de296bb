"""Countdown, case by case; tests/property/test_countdown_verifier.py has the independent oracle."""

import time

import pytest

from bapo.reward.verifiers.answers import tagged_answer
from bapo.reward.verifiers.countdown import GOLDEN, verify


def right(completion, numbers=(3, 5, 7), target=22, answer_format="steps", **more):
    columns = {name: [value] for name, value in more.items()}
    given = list(numbers) if isinstance(numbers, tuple) else numbers
    (verdict,) = verify([completion], [given], [target], [answer_format], **columns)
    return verdict


def expression(text, numbers=(3, 5, 7), target=22, **more):
    return right(f"<answer>{text}</answer>", numbers, target, "expression", **more)


@pytest.mark.parametrize(("completion", "columns", "expected"), GOLDEN)
def test_golden_cases(completion, columns, expected):
    batch = {name: [value] for name, value in columns.items()}
    assert verify(completions=[completion], **batch) == [expected]


def test_many_completions_are_judged_each_by_its_own_columns():
    verdicts = verify(
        ["1+2=3", "1+2=3", "<answer>1+2</answer>"],
        [[1, 2], [1, 3], [2, 1]],
        [3, 3, 3],
        ["steps", "steps", "expression"],
    )
    assert verdicts == [True, False, True]


STEPS = [
    ("3*5=15,15+7=22", True),
    (" 3 * 5 = 15 , 7 + 15 = 22 \n", True),
    ("7+5=12,12+3=15,15+7=22", False),  # 7 twice
    ("3*5=15,3+7=10,15+7=22", False),  # 7 was used up by the second step
    ("15+7=22", False),  # 15 is not there
    ("3*5=15,15+7=22,", False),
    (",3*5=15,15+7=22", False),
    ("3*5=15;15+7=22", False),
    ("3*5=15,15+7=22.", False),
    ("3*5=15,15+7", False),
    ("22", False),
    ("3*5*7=105", False),
    ("3x5=15,15+7=22", False),
    ("3**5=243", False),
    ("٣*٥=١٥,15+7=22", False),
    ("3*5=15,15+7=22" + " " * 2000, False),
]


@pytest.mark.parametrize(("completion", "expected"), STEPS)
def test_steps(completion, expected):
    assert right(completion) is expected


def test_steps_may_go_below_zero_and_through_zero():
    assert right("3-5=-2,-2+7=5", target=5)
    assert right("3-5=-2,7--2=9", target=9)
    assert right("5-5=0,0*7=0", (5, 5, 7), 0)


def test_a_division_must_be_even_and_not_by_zero():
    assert right("6/3=2", (6, 3), 2)
    assert not right("7/2=3", (7, 2), 3)
    assert not right("5-5=0,7/0=7", (5, 5, 7), 7)
    assert not right("5-5=0,7/0=0", (5, 5, 7), 0)


def test_a_number_may_be_used_as_often_as_it_is_given():
    assert right("3+3=6", (3, 3), 6)
    assert not right("3+3=6", (3, 4), 6)


def test_huge_numbers_are_exact():
    assert right("999999999*999999999=999999998000000001", (999999999,) * 2, 999999998000000001)
    assert not right("999999999*999999999=999999998000000000", (999999999,) * 2, 999999998000000000)


def test_use_all_demands_that_every_number_goes_into_the_answer():
    assert right("3*5=15,15+7=22", use_all=True)
    assert right("3+5=8", target=8)
    assert not right("3+5=8", target=8, use_all=True)
    assert not right("3-5=-2,7*1=7", (3, 5, 7, 1), 7, use_all=True)  # -2 is left over
    assert expression("3*5+7", use_all=True)
    assert not expression("3+5", target=8, use_all=True)


EXPRESSIONS = [
    ("3*5+7", True),
    ("7+3*5", True),
    (" ( 3 * 5 ) + 7 ", True),
    ("((((3))*((5))))+(7)", True),
    ("3×5+7", True),
    ("3 · 5 + 7", True),
    ("3*5+7=22", True),
    ("3*5+7 = 22\n", True),
    ("3*5+7=23", False),
    ("3*5+7=22=22", False),
    ("3*5+7=", False),
    ("=22", False),
    ("22=3*5+7", False),
    ("3*(5+7)", False),
    ("3*5+7+0", False),
    ("3*5+7.0", False),
    ("+3*5+7", False),
    ("7--3*5", False),
    ("7-(-3)*5", False),
    ("3*5+", False),
    ("(3*5+7", False),
    ("3*5+7)", False),
    ("()", False),
    ("", False),
    ("3 5 7", False),
    ("3(5)+7", False),
    ("__import__('os').abort()", False),
    ("3*5+7 # sum", False),
    ("٣*5+7", False),
]


@pytest.mark.parametrize(("text", "expected"), EXPRESSIONS)
def test_expressions(text, expected):
    assert expression(text) is expected


def test_signs_that_people_write():
    assert expression("8 ÷ (3 − 8 ÷ 3)", (3, 3, 8, 8), 24)
    assert expression("7 – 5", target=2)


def test_operations_of_one_rank_go_from_left_to_right():
    assert expression("9-5-2", (9, 5, 2), 2)
    assert not expression("9-5-2", (9, 5, 2), 6)
    assert expression("8/4/2", (8, 4, 2), 1)
    assert expression("8/4*2", (8, 4, 2), 4)


def test_values_between_may_be_fractions_but_the_answer_is_exact():
    assert expression("3*(5/3)", (3, 3, 5), 5)
    assert not expression("7/3", (7, 3), 2)
    assert not expression("1/3+1/3+1/3", (1, 1, 1, 3, 3, 3), 2)
    assert expression("1/3+1/3+1/3", (1, 1, 1, 3, 3, 3), 1)


def test_division_by_zero_is_wrong():
    assert not expression("7/(5-5)", (7, 5, 5), 0)
    assert not expression("0/(5-5)", (0, 5, 5), 0)


TAGS = [
    ("<answer>a</answer>", "a"),
    ("<answer>a</answer> then <answer>b</answer> end", "b"),
    ("<answer>a</answer> then <answer>b", "a"),
    ("<answer><answer>a</answer></answer>", "a"),
    ("thinking <answer>a", "a"),
    ("</answer>", None),
    ("</answer><answer>a", "a"),
    ("a", None),
    ("<answer></answer>", ""),
    ("<ANSWER>a</ANSWER>", None),
]


@pytest.mark.parametrize(("text", "answer"), TAGS)
def test_the_answer_is_in_the_last_closed_tag_or_else_after_the_last_open_one(text, answer):
    assert tagged_answer(text) == answer


HOSTILE = {
    "deep": "(" * 400 + "3" + ")" * 400,
    "deeper than the stack": "(" * 1_000_000,
    "long": "3+" * 1_000_000 + "3",
    "huge number": "9" * 1_000_000,
    "power tower": "9**9**9**9**9",
    "tags": "<answer>" * 500_000,
    "closing tags": "</answer>" * 500_000,
    "spaces": " " * 1_000_000,
    "spaces that end badly": "3" + " " * 900 + "x",
    "digits that end badly": "1" * 900 + "=",
    "nothing": "\x00",
    "half a character": "\ud800",
}


@pytest.mark.parametrize("answer_format", ["steps", "expression"])
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_is_wrong_and_cheap(text, answer_format):
    before = time.perf_counter()
    for completion in (text, f"<answer>{text}</answer>"):
        assert right(completion, answer_format=answer_format) is False
    assert time.perf_counter() - before < 0.2


def test_parentheses_may_be_fifty_deep_and_no_deeper():
    assert expression("(" * 50 + "3" + ")" * 50, target=3)
    assert not expression("(" * 51 + "3" + ")" * 51, target=3)


BAD_COLUMNS = [
    ({"numbers": "3 5 7"}, "'numbers' must be a list of whole numbers, but is '3 5 7'"),
    ({"numbers": []}, "'numbers' must be a list of whole numbers"),
    ({"numbers": [3, 5.0]}, "'numbers' must be a list of whole numbers"),
    ({"numbers": [3, True]}, "'numbers' must be a list of whole numbers"),
    ({"target": "22"}, "'target' must be a whole number, but is '22'"),
    ({"target": None}, "'target' must be a whole number, but is None"),
    ({"target": 22.0}, "'target' must be a whole number"),
    ({"answer_format": "prose"}, "'steps' or 'expression', but is 'prose'"),
    ({"use_all": 1}, "'use_all' must be true or false, but is 1"),
]


@pytest.mark.parametrize(("change", "sentence"), BAD_COLUMNS)
def test_columns_that_make_no_sense_are_an_error_and_not_a_wrong_answer(change, sentence):
    columns = {"numbers": [3, 5, 7], "target": 22, "answer_format": "steps", **change}
    with pytest.raises(ValueError, match=sentence):
        right("3*5=15,15+7=22", **columns)
