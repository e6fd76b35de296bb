"""Rows of a data set: read, checked, and divided into training and held-out prompts.

Disjoint by construction: which side of a share a row falls on follows from its prompt's text alone,
not from its place in the file nor from its name. Rows in another order, or rows added later, leave
every other row where it was, and the same text cannot stand on both sides. With held-out rows of
their own, a training row whose text stands in them is refused.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bapo.errors import DataError
from bapo.tasks.image_cells import picture_name
from bapo.tasks.prompts import PromptBuilder, UnusableRowError
from bapo.tasks.screening import RowReport
from bapo.tasks.sources import BadRow, Source, excerpt
from bapo.types import Prompt

DEFAULT_SHARE: Final = 0.1
"""Of the rows, held out where no held-out rows are named."""


@dataclass(frozen=True, slots=True)
class Divided:
    """Prompts on both sides, and the account of all rows.

    Attributes:
        training: In the order of the rows; none where a source is for evaluation alone.
        evaluation: In the order of a hash, so that the first few are a fair sample of a file.
        reports: One for each source that was read.
    """

    training: tuple[Prompt, ...]
    evaluation: tuple[Prompt, ...]
    reports: tuple[RowReport, ...]


def divide(
    source: Source | None,
    held_out: Source | None,
    builder: PromptBuilder,
    *,
    share: float,
    max_bad_share: float,
) -> Divided:
    """Reads the rows there are and divides them.

    Args:
        source: Rows to train on; None where there are held-out rows alone.
        held_out: Held-out rows; None where a share of the others is held out.
        builder: Makes prompts of rows.
        share: That share, in (0, 1).
        max_bad_share: Rows of each source that may be unusable, in [0, 1].

    Raises:
        DataError: A source cannot be read, or holds too many rows that cannot be used.
    """
    apart = Rows.read(held_out, builder) if held_out is not None else None
    rows = Rows.read(source, builder) if source is not None else None
    reports: list[RowReport] = []
    training: list[Prompt] = []
    evaluation: list[Prompt] = []
    if apart is not None:
        reports.append(apart.report(max_bad_share))
        evaluation = [*apart.prompts.values()]
    if rows is not None:
        if apart is not None:
            rows.set_aside_shared(apart)
        reports.insert(0, rows.report(max_bad_share))
        training = [*rows.prompts.values()]
        if apart is None:
            training, evaluation = _split(rows, share)
    in_order = sorted(evaluation, key=lambda prompt: _fraction("order", prompt.prompt_id))
    return Divided(tuple(training), tuple(in_order), tuple(reports))


class Rows:
    """The rows of one source: prompts by line, and the rows that cannot be used.

    Attributes:
        source: Where they come from.
        count: All of them.
        prompts: Usable prompts by their line, in order; every id once.
        bad: The others.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.count = 0
        self.prompts: dict[int, Prompt] = {}
        self.bad: list[BadRow] = []

    @classmethod
    def read(cls, source: Source, builder: PromptBuilder) -> "Rows":
        """All rows of a source.

        Raises:
            DataError: The source cannot be read or has no rows.
        """
        rows = cls(source)
        lines: dict[str, int] = {}
        for row in source.rows():
            rows.count += 1
            if isinstance(row, BadRow):
                rows.bad.append(row)
                continue
            try:
                prompt = builder.build(row.values)
                first = lines.setdefault(prompt.prompt_id, row.line)
                if first != row.line:
                    raise UnusableRowError(builder.repeated(prompt.prompt_id, source.place(first)))
                rows.prompts[row.line] = prompt
            except UnusableRowError as error:
                rows.bad.append(BadRow(row.line, str(error), excerpt(repr(row.values))))
        if not rows.prompts and not rows.bad:
            raise DataError(f"The data set '{source.name}' is empty; it needs one row a problem.")
        return rows

    def set_aside_shared(self, held_out: "Rows") -> None:
        """Makes rows bad whose prompt stands among the held-out rows too."""
        there = {text_of(prompt): line for line, prompt in held_out.prompts.items()}
        for line, prompt in [*self.prompts.items()]:
            if text_of(prompt) in there:
                place = held_out.source.place(there[text_of(prompt)])
                reason = f"its prompt is held out too, in {place}; keep one of the two"
                self.bad.append(BadRow(line, reason, excerpt(text_of(prompt))))
                del self.prompts[line]

    def report(self, max_bad_share: float) -> RowReport:
        """What became of the rows.

        Raises:
            DataError: Too many of them cannot be used.
        """
        lines = {prompt.prompt_id: line for line, prompt in self.prompts.items()}
        report = RowReport(self.source.name, self.source.unit, self.count, lines, tuple(self.bad))
        report.refuse_if_bad(max_bad_share)
        return report


def text_of(prompt: Prompt, folder: Path | None = None) -> str:
    """What two prompts share when they are the same problem.

    Their text, whatever the spacing, and their pictures.

    Args:
        prompt: One of them.
        folder: See `picture_name`.
    """
    shown = [picture_name(image, folder) for image in prompt.images]
    if isinstance(prompt.content, str):
        return "\n".join([" ".join(prompt.content.split()), *shown])
    turns = [f"{message.role}: {' '.join(message.content.split())}" for message in prompt.content]
    return "\n".join([*turns, *shown])


def _split(rows: Rows, share: float) -> tuple[list[Prompt], list[Prompt]]:
    """Training and held-out prompts, by a hash of their text, wherever the data set lies."""
    folder = Path(rows.source.name).parent
    sides: tuple[list[Prompt], list[Prompt]] = ([], [])
    for prompt in rows.prompts.values():
        sides[_fraction("split", text_of(prompt, folder)) < share].append(prompt)
    if not all(sides):
        what, change = ("hold out", "raise") if sides[0] else ("train on", "lower")
        raise DataError(
            f"Of the {len(rows.prompts)} rows of '{rows.source.name}' none is left to {what} "
            f"at a 'task.evaluation_share' of {share:g}; {change} it or name "
            "'task.evaluation_path'."
        )
    return sides


def _fraction(purpose: str, text: str) -> float:
    """A number in [0, 1) that follows from `purpose` and `text` alone."""
    digest = hashlib.blake2b(text.encode(), digest_size=8, person=purpose.encode()).digest()
    return int.from_bytes(digest, "big") / 2**64
