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
from bapo.tasks.sources import BadRow, Source, open_source
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

    Raises:
        SettingError: The settings do not fit together.
        DataError: A file cannot be read, or holds rows that cannot be used.
    """

    verifier: str = ""

    def __init__(self, settings: DatasetSettings) -> None:
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
            rows.refuse_bad()
            training, evaluation = self._split(rows)
        else:
            apart = _Rows.read(held_out, builder)
            apart.refuse_bad()
            rows.set_aside_shared(apart)
            rows.refuse_bad()
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
        prompts: Usable prompts by their line, in order; every id once.
        bad: The others.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
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
                rows.bad.append(BadRow(row.line, str(error)))
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
                self.bad.append(BadRow(line, reason))
                del self.prompts[line]

    def refuse_bad(self) -> None:
        """Raises a `DataError` with the first bad row and the number of bad rows, if any."""
        if not self.bad:
            return
        first = min(self.bad, key=lambda row: row.line)
        place = self.source.place(first.line)
        others = len(self.bad) - 1
        also = f" (nor can {others} more)" if others else ""
        raise DataError(f"{place[0].upper()}{place[1:]} cannot be used{also}: {first.reason}.")


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


def build_dataset(options: Mapping[str, Any]) -> Dataset:
    """The task from a recipe's options."""
    return Dataset(parse_section(DatasetSettings, options, "task"))
