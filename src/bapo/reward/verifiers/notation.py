r"""One way of writing for what people and models write in several, before math-verify reads it.

Only notation is changed, never a value: Unicode signs become LaTeX, `1,234` and `1{,}234` become
`1234`, `3.2e5` becomes `3.2\times 10^{5}`, `2 1/2` becomes a sum, "1 and 2" becomes "1, 2", and
dollar signs go. Words and units are taken apart from numbers by `words_of` and `unit_of`.
"""

import re
from fractions import Fraction
from typing import Final

_SIGNS: Final = {
    **dict.fromkeys("−–‐‑﹣－", "-"),
    "×": r"\times ",
    "·": r"\cdot ",
    "÷": r"\div ",
    "π": r"\pi ",
    "∞": r"\infty ",
    "°": r"^\circ ",
    "≤": r"\le ",
    "≥": r"\ge ",
    "≠": r"\ne ",
    "∪": r"\cup ",
    "∩": r"\cap ",
    "∈": r"\in ",
    "±": r"\pm ",
    "％": "%",
    "\u00a0": " ",
    "\u202f": " ",
}
_UNICODE: Final = str.maketrans(_SIGNS)

_REWRITES: Final = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:text|mathrm)\s*\{\s*\\?\$\s*\}|\\?\$|\\[()\[\]](?!\s*\d+pt)", ""),
        (r"\\(?:displaystyle|textstyle|bigl?|bigr?|Bigl?|Bigr?)(?![A-Za-z])", ""),
        (r"^\s*(?:\\approx|\\sim|≈|~)\s*|(?:\s|\\[,;:!])+$", ""),
        (r"√\s*(\d+|[A-Za-z])", r"\\sqrt{\1}"),
        (r"√\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"(?<![\\A-Za-z])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"(?<=\d)(?:\{,\}|,?\\[,!]|\\ )(?:\\!)?(?=\d{3}(?!\d))", ""),
        (r"(?<![\d.A-Za-z\\])(\d+(?:\.\d+)?)\s*[eE]([+-]?\d+)(?![\d.])", r"\1\\times 10^{\2}"),
        (r"(?<![\d./^_])(\d+)\s+(\d+)\s*/\s*(\d+)(?!\d)", r"(\1+\\frac{\2}{\3})"),
        (r"(?<=\d)\s+i(?![A-Za-z])", "i"),
        (r"\s*,?\s*\\(?:text|mathrm)\s*\{\s*(?:and|or)\s*\}\s*|\s*,?\s+(?:and|or)\s+", ", "),
        (r"\s*\\(?:quad|qquad)\s*", " "),
    )
)
_GROUPED: Final = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_BRACKETED: Final = re.compile(r"[(\[{|]|\\begin")
_WRAPPED: Final = re.compile(r"\\(?:text(?:bf|it|rm|sf|tt)?|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_WORDS: Final = re.compile(r"[A-Za-z][A-Za-z .'-]*")
_TRAILING_WORDS: Final = re.compile(r"(?<=[\d%}])\s+(?:[a-z]{2,}\.?[ -]?)+$", re.IGNORECASE)
_PLAIN: Final = re.compile(
    r"([+-]?)\s*(?:(\d+(?:\.\d*)?|\.\d+)|(\d+)\s*/\s*(\d+)"
    r"|\\[dtc]?frac\s*\{\s*([+-]?\d+)\s*\}\s*\{\s*([+-]?\d+)\s*\})"
)
_MOST_DIGITS: Final = 200

_UNITS: Final = (
    *("mm millimeter millimetre", "cm centimeter centimetre", "m meter metre"),
    *("km kilometer kilometre", "in inch inche", "ft foot feet", "yd yard", "mi mile"),
    *("mg milligram", "g gram", "kg kilogram", "oz ounce", "lb pound"),
    *("ml milliliter millilitre", "l liter litre", "gal gallon"),
    *("s sec second", "min minute", "h hr hour", "day", "week", "month", "year"),
    *("cent", "dollar", "degree", "radian"),
)
_UNIT_NAMES: Final = {word: unit for unit, names in enumerate(_UNITS) for word in names.split()}


def normalise(text: str) -> str:
    """A text in one notation; see the module docstring."""
    text = text.translate(_UNICODE).strip()
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    if not _BRACKETED.search(text):  # `(100,200)` is a pair
        text = _GROUPED.sub(lambda match: match[0].replace(",", ""), text)
    return text.strip().rstrip(".,;").strip()


def without_trailing_words(text: str) -> str:
    """`5 apples` as `5`; a single letter is no word but an unknown."""
    return _TRAILING_WORDS.sub("", text)


def words_of(text: str) -> str | None:
    r"""A text that is words alone, such as `\text{Monday}` or `(C)`, in one form; else None."""
    plain = _WRAPPED.sub(r"\1", text).strip().strip("*").strip()
    if plain.startswith("(") and plain.endswith(")"):
        plain = plain[1:-1].strip()
    plain = plain.rstrip(".")
    return " ".join(plain.casefold().split()) if _WORDS.fullmatch(plain) else None


def must_be_words(gold: str) -> bool:
    r"""Whether a gold answer of words is no formula: `\text{...}`, a choice, or a long word."""
    plain = _WRAPPED.sub(r"\1", gold).strip("() .")
    return plain != gold.strip() or len(plain) > 3 or (len(plain) == 1 and plain.isupper())


def unit_of(text: str) -> int | None:
    """Which unit stands behind a number, as a number for each; None where none known does."""
    word = re.search(r"([A-Za-z]+)[\s}.]*(?:\^\s*\{?\d\}?)?$", text)
    if word is None or not re.search(r"\d", text[: word.start()]):
        return None
    name = word[1] if word[1] in _UNIT_NAMES else word[1].lower().removesuffix("s")
    return _UNIT_NAMES.get(name)


def plain_number(text: str) -> Fraction | None:
    r"""The exact value of a whole number, a decimal, `3/4` or `\frac{3}{4}`; else None."""
    match = _PLAIN.fullmatch(text) if len(text) <= _MOST_DIGITS else None
    if match is None:
        return None
    sign, number, *pairs = match.groups()
    if number is not None:
        value = Fraction(number)
    else:
        upper, lower = (int(one) for one in pairs if one is not None)
        if lower == 0:
            return None
        value = Fraction(upper, lower)
    return -value if sign == "-" else value
