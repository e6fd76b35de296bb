"""The Countdown verifier against oracles that share nothing with it.

For expressions the oracle is Python's own parser, its tree evaluated in fractions; for steps it is
a search over all games; for solvability, all expressions over all subsets of the numbers.
"""

import ast
import itertools
import operator
import re
from collections import Counter
from fractions import Fraction

from hypothesis import assume, example, given
from hypothesis import strategies as st

from bapo.reward.verifiers.countdown import expression_reaches, steps_reach

OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
SIGNS = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}
numbers_given = st.lists(st.integers(0, 12), min_size=1, max_size=4)


def value_by_python(text, used):
    """The value of a text that Python parses as a plain expression, or None."""
    if re.search(r"\b0[0-9]", text):  # Python refuses leading zeros; the verifier does not
        assume(False)
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError):
        return None

    def walk(node):
        match node:
            case ast.BinOp(left, sign, right) if type(sign) in OPERATORS:
                return OPERATORS[type(sign)](walk(left), walk(right))
            case ast.Constant(int(number)):
                used.append(number)
                return Fraction(number)
            case _:
                raise SyntaxError

    try:
        return walk(tree)
    except (SyntaxError, ZeroDivisionError):
        return None


def expected_of_expression(text, numbers, target, use_all):
    used = []
    value = value_by_python(text, used)
    unused = Counter(numbers)
    unused.subtract(used)
    fair = min(unused.values(), default=0) >= 0
    return value == target and fair and not (use_all and any(unused.values()))


def combine(sign, left, right):
    return None if sign == "/" and right == 0 else SIGNS[sign](left, right)


@st.composite
def expressions(draw, leaves):
    """A text over the given leaves, in their order, with random shape and spaces."""
    if len(leaves) == 1:
        text = str(leaves[0])
    else:
        cut = draw(st.integers(1, len(leaves) - 1))
        left, right = draw(expressions(leaves[:cut])), draw(expressions(leaves[cut:]))
        space = draw(st.sampled_from(["", " "]))
        text = f"{left}{space}{draw(st.sampled_from('+-*/'))}{space}{right}"
    return f"({text})" if draw(st.booleans()) else text


@given(st.data(), numbers_given, st.booleans())
def test_a_well_formed_expression_has_the_value_that_python_gives_it(data, numbers, use_all):
    shown = data.draw(st.permutations(numbers))[: data.draw(st.integers(1, len(numbers)))]
    text = data.draw(expressions(shown))
    value = value_by_python(text, [])
    assume(value is not None and value.denominator == 1)
    completion = f"so <answer>{text}</answer>"

    complete = len(shown) == len(numbers)
    reached = expression_reaches(completion, numbers, int(value), use_all=use_all)
    assert reached == (complete or not use_all)
    assert not expression_reaches(completion, numbers, int(value) + 1, use_all=use_all)


@given(
    st.text(alphabet="0123456789+-*/() ", max_size=14),
    numbers_given,
    st.integers(-20, 150),
    st.booleans(),
)
@example("3 * (5)", [3, 5], 15, True)
@example("3**2", [3, 2], 9, False)
@example("7//2", [7, 2], 3, False)
@example("-3", [3], -3, False)
@example("3,", [3], 3, False)
def test_any_text_is_judged_as_python_would(text, numbers, target, use_all):
    expected = expected_of_expression(text, numbers, target, use_all)
    completion = f"<answer>{text}</answer>"
    assert expression_reaches(completion, numbers, target, use_all=use_all) == expected


@given(st.data(), numbers_given)
def test_one_wrong_character_is_judged_as_python_would(data, numbers):
    text = data.draw(expressions(data.draw(st.permutations(numbers))))
    place = data.draw(st.integers(0, len(text) - 1))
    wrong = data.draw(st.sampled_from("0123456789+-*/()"))
    mutated = text[:place] + wrong + text[place + 1 :]
    value = value_by_python(mutated, [])
    target = int(value) if value is not None else 0

    expected = expected_of_expression(mutated, numbers, target, False)
    completion = f"<answer>{mutated}</answer>"
    assert expression_reaches(completion, numbers, target, use_all=False) == expected


def reachable(numbers):
    """All values of all expressions over all subsets of the numbers, each once."""
    by_subset = {(index,): {Fraction(number)} for index, number in enumerate(numbers)}
    for size in range(2, len(numbers) + 1):
        for subset in itertools.combinations(range(len(numbers)), size):
            values = set()
            for part_size in range(1, size):
                for part in itertools.combinations(subset, part_size):
                    rest = tuple(index for index in subset if index not in part)
                    for left, right in itertools.product(by_subset[part], by_subset[rest]):
                        values |= {combine(sign, left, right) for sign in SIGNS} - {None}
            by_subset[subset] = values
    return set().union(*by_subset.values())


@given(st.data(), st.lists(st.integers(0, 9), min_size=1, max_size=3), st.integers(-30, 99))
def test_no_text_reaches_a_target_that_cannot_be_reached(data, numbers, target):
    pieces = st.sampled_from([*map(str, numbers), "+", "-", "*", "/", "(", ")"])
    text = "".join(data.draw(st.lists(pieces, max_size=9)))
    completion = f"<answer>{text}</answer>"
    if expression_reaches(completion, numbers, target, use_all=False):
        assert target in reachable(numbers)


def play(numbers, choices):
    """A fair game of whole numbers: its steps, and the numbers that are left at each point."""
    there, steps = list(numbers), []
    for first, second, sign in choices:
        if len(there) < 2:
            break
        left = there.pop(first % len(there))
        right = there.pop(second % len(there))
        result = combine(sign, Fraction(left), Fraction(right))
        if result is None or result.denominator != 1:
            there += [left, right]
            continue
        steps.append((left, sign, right, int(result)))
        there.append(int(result))
    return steps, there


choice = st.tuples(st.integers(0, 9), st.integers(0, 9), st.sampled_from("+-*/"))
games = st.tuples(
    st.lists(st.integers(0, 12), min_size=2, max_size=5), st.lists(choice, min_size=1, max_size=8)
)


def written(steps):
    return ",".join(f"{left}{sign}{right}={result}" for left, sign, right, result in steps)


@given(games)
def test_a_fair_game_reaches_its_last_result_and_no_other(game):
    numbers, choices = game
    steps, there = play(numbers, choices)
    assume(steps)
    target = steps[-1][3]

    assert steps_reach(written(steps), numbers, target, use_all=False)
    assert not steps_reach(written(steps), numbers, target + 1, use_all=False)
    assert steps_reach(written(steps), numbers, target, use_all=True) == (len(there) == 1)


def is_fair(steps, numbers):
    """Whether the steps are a game, by trying every way to pick each step's two numbers."""
    hands = [tuple(numbers)]
    for left, sign, right, result in steps:
        after = []
        for hand in hands:
            for i, j in itertools.permutations(range(len(hand)), 2):
                if (hand[i], hand[j]) == (left, right) and combine(
                    sign, Fraction(left), Fraction(right)
                ) == result:
                    rest = [number for k, number in enumerate(hand) if k not in (i, j)]
                    after.append((*rest, result))
        hands = after
    return bool(steps and hands)


@given(st.data(), games)
def test_a_game_with_one_number_changed_is_judged_as_the_search_says(data, game):
    numbers, choices = game
    steps, _ = play(numbers, choices)
    assume(steps)
    row = data.draw(st.integers(0, len(steps) - 1))
    column = data.draw(st.sampled_from([0, 2, 3]))
    changed = list(steps[row])
    changed[column] += data.draw(st.integers(-3, 3))
    steps[row] = tuple(changed)

    expected = is_fair(steps, numbers)
    assert steps_reach(written(steps), numbers, steps[-1][3], use_all=False) == expected


@given(st.text(max_size=60), st.sampled_from([steps_reach, expression_reaches]))
def test_no_text_makes_it_raise(text, reaches):
    for completion in (text, f"<answer>{text}</answer>", f"<answer>{text}"):
        assert reaches(completion, [1, 2], 10**17, use_all=False) is False
