"""A task of reasoning-gym: its own scorer, run on the model's text in a worker process.

Columns: `gym_task` (the gym's name), `gym_options` (the options that its problems were made with),
`gym_entry` (its `answer` and `metadata`, as `bapo.tasks.gym_rows.encode` writes them), and
`answer_format`.

The answer: with `tags`, what stands in the last `<answer>` tag (see `tagged_answer`), and no tag is
no answer; with `text`, the whole completion. Spaces around it do not count.

The score is the gym's, in [0, 1]; an answer is correct where it gets full marks, 1. So a fraction
shapes the advantage but never counts as right. A scorer that raises on an answer was given one that
it cannot read: wrong, with the reason as detail. That the scorer works on the problem itself was
seen before, as `check_columns` has it score the gold answer.

Departures from the gym. Some scorers run `eval` on the answer, which is replaced by
`ast.literal_eval`; some give it to sympy, which evaluates it too, and are only given what is made
of numbers, letters, operators and the names of elementary functions.
"""

import ast
import contextlib
import importlib
import json
import math
import re
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any, Final, cast

from bapo.reward.verifiers.answers import tagged_answer

with contextlib.suppress(ImportError):  # who needs it without having it is told so
    importlib.import_module("reasoning_gym")  # seconds, and no answer's

FULL_MARKS: Final = 1.0
_TOLERANCE: Final = 1e-9
_LONGEST: Final = 20_000

_EVALUATES: Final = frozenset({"binary_matrix", "n_queens", "spiral_matrix", "string_insertion"})
"""Tasks of reasoning-gym 0.1.25 whose scorers call `eval` on the answer."""

_SYMBOLIC: Final = frozenset(
    {"countdown", "intermediate_integration", "polynomial_multiplication", "simple_integration"}
)
"""Tasks of reasoning-gym 0.1.25 whose scorers give the answer to `sympy.parse_expr`."""

_FORMULA: Final = re.compile(r"[0-9A-Za-z+\-*/^().|\s]*")
_NAME: Final = re.compile(r"[A-Za-z]+")
_FUNCTIONS: Final = frozenset(
    {"Abs", "acos", "asin", "atan", "cos", "cosh", "cot", "csc", "exp", "ln", "log", "pi"}
    | {"sec", "sin", "sinh", "sqrt", "tan", "tanh"}
)
_ATTRIBUTE: Final = re.compile(r"\.\s*[A-Za-z]")

_GCD: Final[dict[str, Any]] = {
    "gym_task": "gcd",
    "gym_options": {},
    "gym_entry": {"answer": "12", "metadata": {}},
    "answer_format": "tags",
}
_HANOI: Final[dict[str, Any]] = {
    "gym_task": "tower_of_hanoi",
    "gym_options": {},
    "gym_entry": {
        "answer": "Move disk 1 from Peg 1 to Peg 3",
        "metadata": {
            **{"num_disks": 1, "num_pegs": 3, "start_peg": 1, "target_peg": 3},
            "solution_length": 1,
        },
    },
    "answer_format": "text",
}
_AROUND: Final = "Move disk 1 from Peg 1 to Peg 2\nMove disk 1 from Peg 2 to Peg 3"

GOLDEN: Final[list[tuple[str, dict[str, Any], bool]]] = [
    ("24 and 36: <answer>12</answer>", _GCD, True),
    ("<answer>6</answer>, no: <answer> 12 </answer>", _GCD, True),
    ("<answer>12 or 6</answer>", _GCD, False),  # gym: 2 characters of 7
    ("<answer>6</answer>", _GCD, False),
    ("12", _GCD, False),
    ("Move disk 1 from Peg 1 to Peg 3\n", _HANOI, True),
    (_AROUND, _HANOI, False),  # gym: 1 move of 2
    ("Move disk 1 from Peg 1 to Peg 2", _HANOI, False),
]


def verify(
    completions: Sequence[str],
    gym_task: Sequence[str],
    gym_options: Sequence[dict[str, Any]],
    gym_entry: Sequence[dict[str, Any]],
    answer_format: Sequence[str],
) -> list[dict[str, Any]]:
    """Judges completions.

    Args:
        completions: Texts.
        gym_task: The gym's name of the task of each.
        gym_options: Its options.
        gym_entry: Gold answer and metadata of each, encoded.
        answer_format: `tags` or `text`, of each.

    Returns:
        `correct`, `score` and `detail` for each.
    """
    rows = zip(completions, gym_task, gym_options, gym_entry, answer_format, strict=True)
    return [_judge(*row) for row in rows]


def check_columns(
    gym_task: str, gym_options: dict[str, Any], gym_entry: dict[str, Any], **others: Any
) -> str:
    """Why a problem cannot be used; empty where its own gold answer, if it has one, is right."""
    entry = decode(gym_entry)
    scorer = _scorer(gym_task, json.dumps(gym_options))
    if not isinstance(entry["answer"], str):
        scorer.score_answer("", entry)  # raises where the metadata cannot be used
        return ""
    score = float(scorer.score_answer(entry["answer"], entry))
    if score >= FULL_MARKS - _TOLERANCE:
        return ""
    return f"the gym's own answer gets {score:g} of {FULL_MARKS:g} from the gym's scorer"


def decode(value: Any) -> Any:
    """An entry as the gym wrote it, from its JSON form; see `bapo.tasks.gym_rows.encode`."""
    if isinstance(value, list):
        return [decode(one) for one in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    mapping = cast("dict[str, Any]", value)
    if mapping.keys() == {"$tuple"}:
        return tuple(decode(one) for one in mapping["$tuple"])
    if mapping.keys() == {"$pairs"}:
        return {decode(key): decode(one) for key, one in mapping["$pairs"]}
    return {key: decode(one) for key, one in mapping.items()}


def _judge(
    completion: str, task: str, options: dict[str, Any], entry: dict[str, Any], answer_format: str
) -> dict[str, Any]:
    answer = completion if answer_format == "text" else tagged_answer(completion)
    if answer is None:
        return _wrong("There is no <answer> tag.")
    answer = answer.strip()
    refusal = _refused(task, answer)
    if refusal:
        return _wrong(refusal)
    scorer = _scorer(task, json.dumps(options))
    try:
        score = float(scorer.score_answer(answer, decode(entry)))
    except MemoryError:
        raise
    # Gym's scorers may raise anything on a text that is no answer. They have scored the gold
    # answer of this very problem before the run, so the text is at fault.
    except Exception as error:
        return _wrong(f"The gym's scorer cannot read it: {type(error).__name__}: {error}")
    if not 0.0 <= score <= FULL_MARKS + _TOLERANCE or math.isnan(score):
        detail = f"The scorer of '{task}' returned {score!r}, which is not in [0, 1]."
        return {"correct": False, "status": "invalid", "detail": detail}
    return {"correct": score >= FULL_MARKS - _TOLERANCE, "score": min(score, FULL_MARKS)}


def _wrong(detail: str) -> dict[str, Any]:
    return {"correct": False, "score": 0.0, "detail": detail}


def _refused(task: str, answer: str) -> str:
    """Why an answer is not given to the scorer; empty where it is."""
    if len(answer) > _LONGEST:
        return f"It has more than {_LONGEST} characters."
    if task not in _SYMBOLIC:
        return ""
    names = [name for name in _NAME.findall(answer) if len(name) > 1]
    known = all(name in _FUNCTIONS for name in names)
    if known and _FORMULA.fullmatch(answer) and not _ATTRIBUTE.search(answer):
        return ""
    return "It is not a formula."


@cache
def _scorer(task: str, options: str) -> Any:
    """The gym's data set, for its scorer."""
    # By name and not by an import, as the package comes with an extra.
    kind, config = importlib.import_module("reasoning_gym").factory.DATASETS[task]
    if task in _EVALUATES:
        # The module's own name hides the built-in one.
        setattr(sys.modules[kind.__module__], "eval", ast.literal_eval)  # noqa: B010
    return kind(config=config(**json.loads(options)))
