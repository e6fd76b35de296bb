"""Writing to disk so that neither a kill nor a loss of power leaves half a file.

A rename is atomic, but only what was flushed before it is sure to be there after a power cut; the
folder that holds the new name has to be flushed as well.
"""

import os
from collections.abc import Callable
from pathlib import Path


def sync_file(path: Path) -> None:
    """Waits until a file's content is on disk.

    Raises:
        OSError: The file is not there, or the disk cannot take it.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Waits until the names in a folder are on disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(path: Path) -> None:
    """Waits until a folder with all that it holds is on disk."""
    for folder, _, names in os.walk(path):
        for name in names:
            sync_file(Path(folder, name))
        sync_folder(Path(folder))


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file whole: at any moment there is the old content or the new one.

    Args:
        path: The file.
        write: Writes the new content to the path that it is given.

    Raises:
        OSError: It cannot be written; the old content is still there.
    """
    temporary = path.with_name(f".{path.name}.writing")
    write(temporary)
    sync_file(temporary)
    temporary.replace(path)
    sync_folder(path.parent)
