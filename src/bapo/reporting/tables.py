"""Tables of plain text, shown by `bapo inspect` and in the report alike."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Table:
    """A table of plain text, without control characters; a renderer escapes its own markup.

    Attributes:
        title: What it shows.
        columns: The head.
        rows: As many cells each as there are columns.
        note: A sentence below it; may be empty.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
