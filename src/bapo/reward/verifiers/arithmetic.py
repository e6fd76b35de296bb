"""Exact values of short arithmetic expressions that a model wrote; no `eval`.

    expression = term { ("+" | "-") term }
    term       = factor { ("*" | "/") factor }
    factor     = number | "(" expression ")"

Numbers are digits alone. There are no signs: in a puzzle that gives numbers and four operations, a
sign would be a fifth one.
"""

import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import Final

MAX_CHARACTERS: Final = 1000
MAX_DEPTH: Final = 50
MAX_DIGITS: Final = 18
_ALIASES: Final = str.maketrans(
    {**dict.fromkeys("×·⋅∗", "*"), **dict.fromkeys("÷∕⁄", "/"), **dict.fromkeys("−–‐‑﹣－", "-")}
)
_TOKEN: Final = re.compile(r"\s*([0-9]+|[-+*/()])")


class ExpressionError(Exception):
    """The text is no expression, or uses a number that it may not use."""


def normalise(text: str) -> str:
    """The operation signs that people write, as `* / -`."""
    return text.translate(_ALIASES)


def apply(left: Fraction, operation: str, right: Fraction) -> Fraction:
    """The exact result of one operation.

    Raises:
        ExpressionError: Division by zero.
    """
    match operation:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case _:
            if right == 0:
                raise ExpressionError("division by zero")
            return left / right


def evaluate(text: str, numbers: Sequence[int]) -> tuple[Fraction, Counter[int]]:
    """The value of an expression over given numbers.

    The work is bounded whatever the text: its length and depth are limited, and since every number
    must be one of those given, so is the size of every value.

    Args:
        text: The expression, its signs normalised.
        numbers: Each may be used as often as it stands here.

    Returns:
        The value, and the numbers not used.

    Raises:
        ExpressionError: See there.
    """
    parser = _Parser(_tokens(text), Counter(numbers))
    value = parser.expression(0)
    if parser.next is not None:
        raise ExpressionError(f"'{parser.next}' after the end of the expression")
    return value, +parser.unused


def _tokens(text: str) -> list[str]:
    if len(text) > MAX_CHARACTERS:
        raise ExpressionError("too long")
    tokens: list[str] = []
    place = 0
    text = text.rstrip()
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise ExpressionError("a character that has no place in an expression")
        tokens.append(match[1])
        place = match.end()
    return tokens


class _Parser:
    """Recursive descent over tokens, evaluating on the way.

    Attributes:
        unused: Given numbers not used so far.
    """

    def __init__(self, tokens: list[str], unused: Counter[int]) -> None:
        self._tokens = tokens
        self._place = 0
        self.unused = unused

    @property
    def next(self) -> str | None:
        """The token to come, or None at the end."""
        return self._tokens[self._place] if self._place < len(self._tokens) else None

    def expression(self, depth: int) -> Fraction:
        value = self._term(depth)
        while self.next in ("+", "-"):
            value = apply(value, self._take(), self._term(depth))
        return value

    def _term(self, depth: int) -> Fraction:
        value = self._factor(depth)
        while self.next in ("*", "/"):
            value = apply(value, self._take(), self._factor(depth))
        return value

    def _factor(self, depth: int) -> Fraction:
        if depth > MAX_DEPTH:
            raise ExpressionError("too deep")
        token = self._take()
        if token == "(":
            value = self.expression(depth + 1)
            if self._take() != ")":
                raise ExpressionError("an open parenthesis")
            return value
        if not token.isdigit() or len(token) > MAX_DIGITS:
            raise ExpressionError(f"'{token[:20]}' where a number should be")
        number = int(token)
        if self.unused[number] < 1:
            raise ExpressionError(f"{number} is not given, or not so often")
        self.unused[number] -= 1
        return Fraction(number)

    def _take(self) -> str:
        token = self.next
        if token is None:
            raise ExpressionError("an unfinished expression")
        self._place += 1
        return token
