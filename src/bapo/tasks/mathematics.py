"""Arithmetic and word problems in several operations, with exact whole-number answers.

A problem is a start and a chain of events on it: more, fewer, times, shared, so many bags of so
many. `level` is the number of operations in the chain; an event with bags counts two. A chain is
written as a story or as an expression; the names, the things and the words are drawn too:

    Ann has 24 shells. Ann buys 3 bags of 8. Eve has 2 times as many. How many shells does Eve have?
    Compute (24+3*8)*2.

Every amount on the way is a whole number from 1 to 999, so that the answer is exact.

Disjoint by construction: a problem is identified by its start and its events, whatever the words
(`bapo.tasks.splits`). A row is a function of the seed and its index alone.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from bapo.config import parse_task_options, setting
from bapo.errors import DataError
from bapo.tasks.made_up import MadeUpTask, check_different, check_worked
from bapo.tasks.splits import ATTEMPTS, Split, different, draw_row
from bapo.types import ChatMessage, Prompt

VERIFIER: Final = "bapo.reward.verifiers.mathematics:verify"
INSTRUCTION: Final = "Please reason step by step, and put your final answer within \\boxed{}."
"""What instruction models are asked for; the sentence of Qwen2.5-Math's and DeepSeek-R1's cards."""

_LARGEST_RESULT: Final = 999
_LARGEST_FACTOR: Final = 9
_LARGEST_BAG: Final = 12

_NAMES: Final = ("Ann", "Ben", "Eve", "Leo", "Max", "Mia", "Sam", "Zoe")
_THINGS: Final = ("apples", "books", "coins", "pens", "shells", "stamps")
_EVENTS: Final[Mapping[str, tuple[str, ...]]] = {
    "+": ("{s} buys {n} more.", "{s} finds {n} more.", "{f} gives {s} {n} more."),
    "-": ("{s} loses {n}.", "{s} sells {n}.", "{s} gives {f} {n}."),
    "*": ("{f} has {n} times as many.",),
    "/": ("{s} splits them into {n} equal piles and keeps one.",),
    "+*": ("{s} buys {n} bags of {m}.", "{s} finds {n} boxes of {m}."),
    "-*": ("{s} gives {m} each to {n} friends.", "{s} sells {n} bags of {m}."),
}
_START: Final = "{s} has {n} {things}."
_QUESTION: Final = "How many {things} does {s} have?"
_EXPRESSION: Final = "Compute {expression}."
_BOXED: Final = "\\boxed{"


@dataclass(frozen=True, slots=True)
class MathematicsSettings:
    """The knobs of difficulty and of format."""

    levels: tuple[int, ...] = setting(
        (1, 2, 3, 4), "how many operations a problem takes; drawn equally", low=1, high=8
    )
    forms: tuple[str, ...] = setting(
        ("story", "expression"),
        "how problems are put; drawn equally",
        choices=["story", "expression"],
    )
    largest: int = setting(
        99, "starts, and what is added or taken away, are drawn from 2 to this", low=9, high=500
    )
    prompt_format: str = setting(
        "steps",
        "steps: the problem alone, for a small model; chat: a chat prompt that asks for \\boxed{}",
        choices=["steps", "chat"],
    )
    train_size: int = setting(2048, "training problems", low=1)
    seed: int = setting(0, "seed of the problems, apart from the run's seed", low=0)


@dataclass(frozen=True, slots=True)
class Event:
    """What happens to the amount.

    Attributes:
        kind: `+ - * /`, or `+*` and `-*` for `n` bags of `m`.
        n: The number, or how many bags.
        m: How many in a bag; 0 for other kinds.
    """

    kind: str
    n: int
    m: int = 0

    def apply(self, amount: int) -> int | None:
        """The amount after it, or None where that is no whole number from 1 to 999."""
        change = self.n * self.m if self.m else self.n
        match self.kind[0]:
            case "+":
                after = amount + change
            case "-":
                after = amount - change
            case "*":
                after = amount * change
            case _:
                after = amount // change if amount % change == 0 else 0
        return after if 1 <= after <= _LARGEST_RESULT else None

    def steps(self, amount: int) -> list[str]:
        """`3*8=24`, `33+24=57`: its operations with their results."""
        lines: list[str] = []
        change = self.n
        if self.m:
            change = self.n * self.m
            lines.append(f"{self.n}*{self.m}={change}")
        lines.append(f"{amount}{self.kind[0]}{change}={self.apply(amount)}")
        return lines


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem.

    Attributes:
        start: The amount at the start.
        events: What happens to it, in order.
        question: The problem in words or as an expression.
    """

    start: int
    events: tuple[Event, ...]
    question: str

    @property
    def identity(self) -> str:
        """What makes it this problem and no other, whatever the words."""
        chain = "".join(
            f"{event.kind[0]}{event.n}" + (f"x{event.m}" if event.m else "")
            for event in self.events
        )
        return f"math{self.level}-{self.start}{chain}"

    @property
    def level(self) -> int:
        """How many operations it takes."""
        return sum(len(event.kind) for event in self.events)

    @property
    def answer(self) -> int:
        """The exact answer."""
        amount = self.start
        for event in self.events:
            after = event.apply(amount)
            assert after is not None  # no other chain is made into a problem
            amount = after
        return amount


class Mathematics(MadeUpTask):
    """The mathematics task; see the module docstring.

    Args:
        settings: The knobs.

    Raises:
        SettingError: A list of levels or forms is empty or repeats itself.
    """

    verifier: str = VERIFIER

    def __init__(self, settings: MathematicsSettings) -> None:
        check_different("levels", settings.levels, "[3, 4]")
        check_different("forms", settings.forms, "[story]")
        widen = "raise 'task.largest' or add a level to 'task.levels'"
        super().__init__(settings.train_size, widen)
        self._settings = settings

    @property
    def name(self) -> str:
        """`math-3`, `math-1234`."""
        return "math-" + "".join(map(str, self._settings.levels))

    @property
    def alphabet(self) -> Sequence[str]:
        """Digits, signs and the words of the stories."""
        texts = [_START, _QUESTION, _EXPRESSION, *sum(_EVENTS.values(), ())]
        # Fields such as {things} are no words; what fills them is named below.
        plain = [re.sub(r" ?\{\w+\}", "", text) for text in texts]
        words = [word for text in plain for word in re.findall(r" ?[A-Za-z]+", text)]
        named = [*_NAMES, *(f" {name}" for name in _NAMES), *(f" {thing}" for thing in _THINGS)]
        return [*"0123456789+-*/=().?} \n", _BOXED, *sorted({*words, *named})]

    def worked_example(self, index: int) -> tuple[str, str]:
        r"""Prompt and worked solution of cold-start problem `index`, ending in `\boxed{57}`.

        Raises:
            SettingError: The prompts are chats, for which there is no small model.
        """
        check_worked("prompt_format", self._settings.prompt_format)
        problem = self.row(Split.WARMSTART, index)
        return steps_prompt(problem), worked_solution(problem)

    def row(self, split: Split, index: int) -> Problem:
        """Problem `index` of a split, from the seed and the index alone.

        Raises:
            DataError: The knobs leave no problem to be found.
        """
        problem = draw_row(self._draw, self._settings.seed, split, index)
        if problem is None:
            raise DataError(
                f"No problem with {list(self._settings.levels)} operations was found in "
                f"{ATTEMPTS} attempts; lower 'task.levels'."
            )
        return problem

    def prompt(self, problem: Problem) -> Prompt:
        """The problem as a prompt in the configured format."""
        chat = self._settings.prompt_format == "chat"
        return Prompt(
            prompt_id=problem.identity,
            content=chat_prompt(problem) if chat else steps_prompt(problem),
            columns={"answer": str(problem.answer)},
            level=f"math-{problem.level}",
        )

    def _different(self, split: Split, count: int) -> list[Prompt]:
        rows = different(lambda index: self.row(split, index), count)
        return [self.prompt(problem) for problem in rows]

    def _draw(self, rng: np.random.Generator) -> Problem | None:
        """One random problem, or None where its chain left the whole numbers from 1 to 999."""

        def pick(choices: Sequence[Any]) -> Any:
            return choices[int(rng.random() * len(choices))]

        settings = self._settings
        left = pick(settings.levels)
        form = pick(settings.forms)
        start = amount = pick(range(2, settings.largest + 1))
        events: list[Event] = []
        while left:
            kind = pick([kind for kind in _EVENTS if len(kind) <= left])
            event = _drawn_event(kind, settings.largest, pick)
            after = event.apply(amount)
            if after is None:
                return None
            events.append(event)
            amount, left = after, left - len(kind)
        write = _story if form == "story" else _expression
        return Problem(start, tuple(events), write(start, events, pick))


def _drawn_event(kind: str, largest: int, pick: Callable[[Sequence[Any]], Any]) -> Event:
    if kind in "+-":
        return Event(kind, pick(range(2, largest + 1)))
    factor = pick(range(2, _LARGEST_FACTOR + 1))
    return Event(kind, factor, pick(range(2, _LARGEST_BAG + 1)) if len(kind) == 2 else 0)


def _story(start: int, events: Sequence[Event], pick: Callable[[Sequence[Any]], Any]) -> str:
    """The chain as a story; `times as many` makes another one the one who is asked about."""
    subject, things = pick(_NAMES), pick(_THINGS)
    sentences = [_START.format(s=subject, n=start, things=things)]
    for event in events:
        friend = pick([name for name in _NAMES if name != subject])
        wording = pick(_EVENTS[event.kind])
        sentences.append(wording.format(s=subject, f=friend, n=event.n, m=event.m))
        if event.kind == "*":
            subject = friend
    return " ".join([*sentences, _QUESTION.format(s=subject, things=things)])


def _expression(start: int, events: Sequence[Event], pick: Callable[[Sequence[Any]], Any]) -> str:
    """The chain as an expression, with the parentheses that it needs; nothing is drawn for it."""
    text, is_sum = str(start), False
    for event in events:
        if event.kind in "*/":
            text, is_sum = (f"({text})" if is_sum else text) + f"{event.kind}{event.n}", False
        else:
            text += event.kind[0] + (f"{event.n}*{event.m}" if event.m else str(event.n))
            is_sum = True
    return _EXPRESSION.format(expression=text)


def steps_prompt(problem: Problem) -> str:
    """The problem and a line break: the prompt that small models are trained on."""
    return problem.question + "\n"


def chat_prompt(problem: Problem) -> tuple[ChatMessage, ...]:
    """A chat prompt for instruction models."""
    return (ChatMessage("user", f"{problem.question}\n{INSTRUCTION}"),)


def worked_solution(problem: Problem) -> str:
    r"""One operation a line, then `\boxed{57}`."""
    lines: list[str] = []
    amount = problem.start
    for event in problem.events:
        lines += event.steps(amount)
        amount = int(lines[-1].rpartition("=")[2])
    return "\n".join([*lines, f"{_BOXED}{amount}}}"])


def build_mathematics(
    options: Mapping[str, Any], levels: tuple[int, ...] = (1, 2, 3, 4)
) -> Mathematics:
    """The task from a recipe's options; `levels` is the default of a named variant."""
    given = {"levels": levels, **options}
    return Mathematics(parse_task_options(MathematicsSettings, given))
