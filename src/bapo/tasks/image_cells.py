"""Pictures in the cells of a data set: named while rows are read, and read again when shown.

A cell holds a path, `{"bytes": ..., "path": ...}` as the `datasets` library stores pictures, or a
list of either. Paths are relative to the data file. What is read here becomes references; the bytes
are left where they are, and a hash of them says which picture it is.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, cast

from bapo.errors import DataError
from bapo.types import ImageKind, ImageReference

_OPEN_SOURCES: Final = 4
_ROW_GROUPS_HELD: Final = 4


class UnusableCellError(ValueError):
    """A cell holds no pictures; the message is the reason, with the cure."""


def cell_references(value: Any, place: Mapping[str, Any]) -> list[ImageReference]:
    """The references of the pictures in a cell.

    Args:
        value: What the cell holds.
        place: `source`, `row` (from 1) and `column`; `split`, `subset` and `revision` for a data
            set that the `datasets` library loads.

    Raises:
        UnusableCellError: It holds something else than pictures, or none.
    """
    cells = cast("list[Any]", value) if isinstance(value, list) else [value]
    if not cells or cells == [None]:
        raise UnusableCellError(
            f"its {place['column']!r} holds no picture; add one or remove the row"
        )
    return [_reference(cell, index, place) for index, cell in enumerate(cells)]


def _reference(cell: Any, index: int, place: Mapping[str, Any]) -> ImageReference:
    fields = cast("dict[str, Any]", cell) if isinstance(cell, dict) else {"path": cell}
    content, path = fields.get("bytes"), fields.get("path")
    if isinstance(content, bytes):
        digest = hashlib.blake2b(content, digest_size=16).hexdigest()
        detail = {**place, "index": index, "digest": digest}
        source = str(detail.pop("source"))
        return ImageReference(ImageKind.CELL, source, json.dumps(detail, sort_keys=True))
    if isinstance(path, str) and path:
        folder = Path(place["source"]).parent
        return ImageReference(ImageKind.FILE, str(folder / path))
    shown = repr(cell)
    raise UnusableCellError(
        f"its {place['column']!r} holds {shown if len(shown) <= 80 else shown[:77] + '...'}, but a "
        "picture is a path, or bytes and a path as the datasets library stores them"
    )


def picture_name(reference: ImageReference, folder: Path | None = None) -> str:
    """What two pictures share when they are the same: the hash of a cell's bytes, or the rest.

    Args:
        reference: The picture.
        folder: Files are named as seen from there; None for whole paths.
    """
    if reference.kind is ImageKind.CELL:
        return json.loads(reference.detail)["digest"]
    if reference.kind is ImageKind.FILE and folder is not None:
        return os.path.relpath(reference.source, folder)
    return f"{reference.source} {reference.detail}"


def read_cell(reference: ImageReference) -> bytes:
    """The bytes of a picture in a cell.

    Raises:
        DataError: The data set is not there any more, or holds another picture in that place.
    """
    place: dict[str, Any] = json.loads(reference.detail)
    if reference.source.endswith(".parquet"):
        value = _parquet_cell(reference.source, place["row"] - 1, place["column"])
    else:
        table = _hub_table(reference.source, place["split"], place["subset"], place["revision"])
        value = table[place["row"] - 1][place["column"]][0].as_py()
    cells = cast("list[Any]", value) if isinstance(value, list) else [value]
    content = cells[place["index"]]["bytes"] if place["index"] < len(cells) else b""
    if hashlib.blake2b(content, digest_size=16).hexdigest() != place["digest"]:
        raise DataError(
            f"Row {place['row']} of '{reference.source}' holds another picture than when it was "
            "read first; put the data back, or start a new run."
        )
    return content


def place_of(reference: ImageReference) -> str:
    """Where a picture is, for messages."""
    if reference.kind is ImageKind.CELL:
        place = json.loads(reference.detail)
        return f"in row {place['row']}, column '{place['column']}', of '{reference.source}'"
    return f"'{reference.source}'"


def _parquet_cell(path: str, row: int, column: str) -> Any:
    starts = _row_group_starts(path)
    group = max(number for number, start in enumerate(starts) if start <= row)
    return _row_group(path, group, column)[row - starts[group]].as_py()


@lru_cache(maxsize=_OPEN_SOURCES)
def _row_group_starts(path: str) -> list[int]:
    import pyarrow.parquet

    metadata = pyarrow.parquet.read_metadata(path)
    starts, total = [], 0
    for number in range(metadata.num_row_groups):
        starts.append(total)
        total += metadata.row_group(number).num_rows
    return starts


@lru_cache(maxsize=_ROW_GROUPS_HELD)
def _row_group(path: str, number: int, column: str) -> Any:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        return file.read_row_group(number, columns=[column]).column(0)


@lru_cache(maxsize=_OPEN_SOURCES)
def _hub_table(name: str, split: str, subset: str, revision: str) -> Any:
    """A data set of the `datasets` library as it is stored; its rows are mapped, not read."""
    import datasets

    loaded: Any = datasets.load_dataset(
        name, subset or None, split=split, revision=revision or None
    )
    return loaded.with_format("arrow")
