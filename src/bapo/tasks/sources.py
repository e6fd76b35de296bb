"""Where the rows of a user's data come from: JSON Lines, Parquet, or the `datasets` library.

Reading goes row by row and never stops at a bad one: each is given as a `BadRow` with its reason,
so that whoever reads can count them, refuse them or set them aside. What concerns the file as a
whole (missing, unreadable, not Parquet) is a `DataError`.

Only JSON values come out: text, finite numbers, true, false, null, lists and mappings. Nothing that
is read is run; `datasets` no longer runs scripts that come with a data set.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from bapo.errors import DataError, SettingError
from bapo.tasks.image_cells import UnusableCellError, cell_references

_FILES: Final = (".jsonl", ".parquet")
_OTHER_FILES: Final = (".json", ".csv", ".tsv", ".txt", ".gz", ".zip", ".arrow")
_HUB_NAME: Final = re.compile(r"[\w.-]+(/[\w.-]+)?")
_NOT_UTF8: Final = "it holds text that is not UTF-8; write its texts as UTF-8"
_STORE: Final = "store it as text or as a finite number"
_ONE_OBJECT: Final = "write one JSON object on each line"
_LONGEST_REASON: Final = 300
_LONGEST_EXCERPT: Final = 500


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its number in the source, from 1, and its values by column."""

    line: int
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used.

    Attributes:
        line: Its number in the source, from 1.
        reason: Why, with the cure.
        content: How it begins, as text.
    """

    line: int
    reason: str
    content: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """A readable set of rows.

    Attributes:
        name: The file or the Hub name, for messages.
        unit: What `line` counts: `line` or `row`.
        rows: Reads all rows from the start, in order; raises `DataError` where the source as a
            whole cannot be read.
    """

    name: str
    unit: str
    rows: Callable[[], Iterator[Row | BadRow]]

    def place(self, line: int) -> str:
        """`line 3 of 'train.jsonl'`."""
        return f"{self.unit} {line} of '{self.name}'"


def open_source(
    path: str, *, split: str = "", subset: str = "", revision: str = "", image_column: str = ""
) -> Source:
    """The source that a path names; nothing is read yet.

    Args:
        path: A .jsonl or .parquet file, or what `datasets.load_dataset` takes: a Hub name, or a
            folder with data files.
        split: The Hub split; empty means `train`.
        subset: The Hub configuration; empty means the default one.
        revision: The Hub commit or tag; empty means the newest.
        image_column: A column with pictures, given as references; empty where there is none.

    Raises:
        DataError: There is no such file or folder, or it is of a kind that is not read.
        SettingError: A file is given a split, a subset or a revision.
    """
    file = Path(path).expanduser()
    if file.suffix in (*_FILES, *_OTHER_FILES) or file.is_file():
        if not file.is_file():
            raise DataError(f"There is no data file '{path}'; check the path.")
        if file.suffix not in _FILES:
            raise DataError(
                f"The data file '{path}' is neither .jsonl nor .parquet; convert it to one of them."
            )
        if split or subset or revision:
            raise SettingError(
                f"A split, a subset or a revision is given for the data file '{path}', but only "
                "Hub data sets have them; leave them out."
            )
        pictures = _Pictures(image_column, {"source": str(file)})
        if file.suffix == ".parquet":
            return Source(path, "row", lambda: _parquet_rows(file, pictures))
        return Source(path, "line", lambda: _json_lines(file, pictures))
    if not file.is_dir() and not _HUB_NAME.fullmatch(path):
        raise DataError(
            f"There is no data file or folder '{path}', nor can this be a Hub name; check the path."
        )
    given = str(file) if file.is_dir() else path
    named = {"split": split or "train", "subset": subset, "revision": revision}
    pictures = _Pictures(image_column, {"source": given, **named})
    return Source(path, "row", lambda: _hub_rows(given, named, pictures))


@dataclass(frozen=True, slots=True)
class _Pictures:
    """The column with pictures, empty where there is none, and where its cells are."""

    column: str
    place: Mapping[str, str]

    def named(self, line: int, values: dict[str, Any]) -> dict[str, Any]:
        """A row's values with its pictures given as `[kind, source, detail]`.

        Raises:
            UnusableCellError: The cell holds no pictures.
        """
        if not self.column or self.column not in values:
            return values
        place = {**self.place, "row": line, "column": self.column}
        found = cell_references(values[self.column], place)
        return {**values, self.column: [[one.kind, one.source, one.detail] for one in found]}


def _json_lines(file: Path, pictures: _Pictures) -> Iterator[Row | BadRow]:
    """Rows of a JSON Lines file; blank lines are passed over but counted."""
    try:
        with file.open("rb") as stream:
            for line, raw in enumerate(stream, start=1):
                stripped = (raw.removeprefix(b"\xef\xbb\xbf") if line == 1 else raw).strip()
                if stripped:
                    yield _parse_line(line, stripped, pictures)
    except OSError as error:
        raise DataError(f"The data file '{file}' cannot be read: {error.strerror}.") from None


def _parse_line(line: int, raw: bytes, pictures: _Pictures) -> Row | BadRow:
    try:
        value: Any = json.loads(raw.decode("utf-8"))
        if isinstance(value, dict):
            return _checked(line, cast("dict[str, Any]", value), pictures)
        kind = {list: "a list", str: "a text", type(None): "null"}.get(type(value), "a number")
        reason = f"it holds {kind} and not an object; {_ONE_OBJECT}"
    except UnicodeDecodeError as error:
        reason = f"it is not UTF-8 at byte {error.start + 1}; save the file as UTF-8"
    except json.JSONDecodeError as error:
        reason = f"it is not JSON ({error.msg} at column {error.colno}); {_ONE_OBJECT}"
    except RecursionError:
        reason = "its JSON is nested too deeply; flatten it"
    except ValueError as error:  # a whole number of thousands of digits
        reason = f"its JSON cannot be read ({error}); {_ONE_OBJECT}"
    return BadRow(line, reason, excerpt(raw[: 4 * _LONGEST_EXCERPT].decode(errors="replace")))


def _parquet_rows(file: Path, pictures: _Pictures) -> Iterator[Row | BadRow]:
    """Rows of a Parquet file, read in batches."""
    import pyarrow
    import pyarrow.parquet

    line = 0
    try:
        with pyarrow.parquet.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(batch_size=1024):
                for values in _batch_values(batch):
                    line += 1
                    if values is None:
                        yield BadRow(line, _NOT_UTF8)
                    else:
                        yield _checked(line, values, pictures)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"The data file '{file}' cannot be read as Parquet ({_in_short(error)}); write it anew."
        ) from None


def _batch_values(batch: Any) -> Iterator[dict[str, Any] | None]:
    """The rows of a pyarrow record batch, None for one whose text is not UTF-8."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for index in range(batch.num_rows):
            try:
                yield batch.slice(index, 1).to_pylist()[0]
            except UnicodeDecodeError:
                yield None


def _hub_rows(name: str, named: Mapping[str, str], pictures: _Pictures) -> Iterator[Row | BadRow]:
    """Rows of a data set that the `datasets` library loads."""
    import datasets
    from datasets.exceptions import DatasetsError

    try:
        loaded: Any = datasets.load_dataset(
            name,
            named["subset"] or None,
            split=named["split"],
            revision=named["revision"] or None,
        )
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        raise DataError(
            f"The split '{named['split']}' of the data set '{name}' could not be loaded "
            f"({_in_short(error)}); check the name, the split, the subset and the network, or "
            "name a .jsonl or .parquet file."
        ) from None
    if pictures.column:  # as stored, not decoded
        stored = loaded.with_format("arrow").iter(batch_size=256)
        loaded = (values for batch in stored for values in batch.to_pylist())
    for line, values in enumerate(loaded, start=1):
        yield _checked(line, cast("dict[str, Any]", values), pictures)


def _checked(line: int, values: dict[str, Any], pictures: _Pictures) -> Row | BadRow:
    """The row as plain JSON values, so that it can go to verifiers, ledgers and checkpoints."""
    try:
        values = pictures.named(line, values)
        return Row(line, _as_json(values))
    except UnusableCellError as error:
        return BadRow(line, str(error))
    except (TypeError, ValueError, RecursionError):
        faults = filter(None, (_fault(name, value) for name, value in values.items()))
        reason = next(faults, "its JSON is nested too deeply; flatten it")
        return BadRow(line, reason, excerpt(_written(values)))


def excerpt(text: str) -> str:
    """How a text begins, short enough to be kept beside a reason."""
    return text if len(text) <= _LONGEST_EXCERPT else text[: _LONGEST_EXCERPT - 3] + "..."


def _written(values: dict[str, Any]) -> str:
    """A row as text, whatever it holds."""
    try:
        return repr(values)
    except RecursionError:
        return ""


def _fault(name: str, value: Any) -> str:
    """Why a column's value is not JSON, with the cure; empty where it is."""
    try:
        _as_json({name: value})
    except UnicodeEncodeError:
        return f"the column {name!r} holds half a character (a surrogate); write it whole"
    except (TypeError, RecursionError) as error:
        return f"the column {name!r} holds what JSON cannot ({_in_short(error)}); {_STORE}"
    except ValueError:
        return f"the column {name!r} holds a number that is not finite or far too long; {_STORE}"
    return ""


def _as_json(values: dict[str, Any]) -> dict[str, Any]:
    text = json.dumps(values, allow_nan=False, ensure_ascii=False)
    return json.loads(text.encode("utf-8"))


def _in_short(error: BaseException) -> str:
    """An error of another library on one line, without its full stop."""
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return text if len(text) <= _LONGEST_REASON else text[: _LONGEST_REASON - 3] + "..."
