"""A user's own data as a task: rows become prompts, and a hash holds some of them out.

Disjoint by construction: which side of `evaluation_share` a row falls on follows from its prompt's
text alone, not from its place in the file nor from its name. Rows in another order, or rows added
later, leave every other row where it was, and the same text cannot stand on both sides. With an
evaluation set of its own, a training row whose text stands in it is refused.

The verifier is the recipe's `reward.verifier`; a data set has none of its own.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bapo.config import parse_section, setting
from bapo.errors import DataError, SettingError
from bapo.tasks.prompts import PromptBuilder, PromptShape, UnusableRowError
from bapo.tasks.screening import RowReport
from bapo.tasks.sources import BadRow, Source, excerpt, open_source
from bapo.types import Prompt

_DEFAULT_SHARE: Final = 0.1


@dataclass(frozen=True, slots=True)
class DatasetSettings:
    """Where the rows are and how they become prompts."""

    path: str = setting("", "a .jsonl or .parquet file, a folder of data files, or a Hub name")
    split: str = setting("", "Hub split to train on; empty means train")
    subset: str = setting("", "Hub configuration, such as main for openai/gsm8k")
    revision: str = setting("", "Hub commit or tag; empty means the newest")
    evaluation_path: str = setting("", "held-out rows, named as in `path`")
    evaluation_split: str = setting(
        "", "Hub split of the held-out rows, of `evaluation_path` or else `path`; empty means train"
    )
    evaluation_share: float | None = setting(
        None,
        "share of the rows held out, by a hash of the prompt, where no held-out rows are named; "
        "empty means 0.1",
        above=0,
        high=0.9,
    )
    prompt_column: str = setting(
        "prompt", "column with a text or a list of {role, content}; not read with a `template`"
    )
    template: str = setting(
        "", "text of the prompt, with {column} for a row's value and {{ }} for braces"
    )
    id_column: str = setting(
        "", "column with a name for each row; empty means a hash of its content"
    )
    level_column: str = setting("", "column with a difficulty label, for reports")
    system_prompt: str = setting(
        "", "put before chat prompts that have no system message of their own"
    )
    chat: bool = setting(
        False, "wrap a text in a user message, so that the model's chat template is applied"
    )


class Dataset:
    """The data set task; see the module docstring. Everything is read and checked at once.

    Args:
        settings: Where the rows are and how they become prompts.
        max_bad_share: Rows of each source that may be unusable, in [0, 1].

    Raises:
        SettingError: The settings do not fit together.
        DataError: A file cannot be read, or holds too many rows that cannot be used.
    """

    verifier: str = ""

    def __init__(self, settings: DatasetSettings, max_bad_share: float = 0.0) -> None:
        _check_together(settings)
        self._settings = settings
        builder = PromptBuilder(
            PromptShape(
                prompt_column=settings.prompt_column,
                template=settings.template,
                id_column=settings.id_column,
                level_column=settings.level_column,
                system_prompt=settings.system_prompt,
                chat=settings.chat,
            )
        )
        source = open_source(
            settings.path,
            split=settings.split,
            subset=settings.subset,
            revision=settings.revision,
        )
        rows = _Rows.read(source, builder)
        held_out = _held_out_source(settings)
        if held_out is None:
            self.reports = (rows.report(max_bad_share),)
            training, evaluation = self._split(rows)
        else:
            apart = _Rows.read(held_out, builder)
            held_out_report = apart.report(max_bad_share)
            rows.set_aside_shared(apart)
            self.reports = (rows.report(max_bad_share), held_out_report)
            training, evaluation = [*rows.prompts.values()], [*apart.prompts.values()]
        self._training = tuple(training)
        # In the order of a hash, so that the first few are a fair sample of a sorted file.
        self._evaluation = tuple(sorted(evaluation, key=lambda p: _fraction("order", p.prompt_id)))

    @property
    def name(self) -> str:
        """The file's name without its ending, or the Hub name."""
        path = Path(self._settings.path)
        return path.stem if path.suffix in (".jsonl", ".parquet") else self._settings.path

    def training_prompts(self) -> Sequence[Prompt]:
        """All prompts to train on, in the order of the rows."""
        return self._training

    def evaluation_prompts(self, count: int) -> Sequence[Prompt]:
        """The first `count` held-out prompts in the order of a hash, fewer if there are fewer."""
        return self._evaluation[:count]

    def _split(self, rows: "_Rows") -> tuple[list[Prompt], list[Prompt]]:
        """Training and held-out prompts, by a hash of their text."""
        share = self._settings.evaluation_share or _DEFAULT_SHARE
        sides: tuple[list[Prompt], list[Prompt]] = ([], [])
        for prompt in rows.prompts.values():
            sides[_fraction("split", text_of(prompt)) < share].append(prompt)
        if not all(sides):
            what, change = ("hold out", "raise") if sides[0] else ("train on", "lower")
            raise DataError(
                f"Of the {len(rows.prompts)} rows of '{rows.source.name}' none is left to {what} "
                f"at a 'task.evaluation_share' of {share:g}; {change} it or name "
                "'task.evaluation_path'."
            )
        return sides


class _Rows:
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
    def read(cls, source: Source, builder: PromptBuilder) -> "_Rows":
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

    def set_aside_shared(self, held_out: "_Rows") -> None:
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


def text_of(prompt: Prompt) -> str:
    """What two prompts share when they are the same problem: their text, whatever the spacing."""
    if isinstance(prompt.content, str):
        return " ".join(prompt.content.split())
    return "\n".join(
        f"{message.role}: {' '.join(message.content.split())}" for message in prompt.content
    )


def _held_out_source(settings: DatasetSettings) -> Source | None:
    """Where held-out rows are named, or None where a share of the rows is held out."""
    if not settings.evaluation_path and not settings.evaluation_split:
        return None
    same = settings.evaluation_path in ("", settings.path)
    return open_source(
        settings.evaluation_path or settings.path,
        split=settings.evaluation_split,
        subset=settings.subset if same else "",
        revision=settings.revision if same else "",
    )


def _check_together(settings: DatasetSettings) -> None:
    """Raises a `SettingError` where settings that are each in range do not fit together."""
    if not settings.path:
        raise SettingError(
            "'task.path' is missing: name a .jsonl or .parquet file, or a Hub data set."
        )
    named = settings.evaluation_path or settings.evaluation_split
    if named and settings.evaluation_share is not None:
        raise SettingError(
            f"'task.evaluation_share' is {settings.evaluation_share:g}, but held-out rows are "
            f"named too ('{named}'); leave one of the two out."
        )
    if not settings.prompt_column and not settings.template:
        raise SettingError("'task.prompt_column' is empty; name a column or give 'task.template'.")


def _fraction(purpose: str, text: str) -> float:
    """A number in [0, 1) that follows from `purpose` and `text` alone."""
    digest = hashlib.blake2b(text.encode(), digest_size=8, person=purpose.encode()).digest()
    return int.from_bytes(digest, "big") / 2**64


def build_dataset(options: Mapping[str, Any], max_bad_share: float = 0.0) -> Dataset:
    """The task from a recipe's options; by default every row must be usable."""
    return Dataset(parse_section(DatasetSettings, options, "task"), max_bad_share)
