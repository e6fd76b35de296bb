"""The manifest of a checkpoint: size and hash of every file, written last.

A checkpoint counts only if its manifest is there, is exactly what was written, and all files are as
it says. Nothing of a checkpoint is read before that holds.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bapo.errors import CheckpointError
from bapo.training.durable import sync_file

MANIFEST = "manifest.json"
FORMAT = 3
"""Raised when checkpoints of before can no longer be read."""


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What one file of a checkpoint must be.

    Attributes:
        bytes: Its size.
        sha256: The hash of its content, in hexadecimal digits.
    """

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a checkpoint holds.

    Attributes:
        step: Training steps done when it was made.
        seconds: Time that writing it took, up to the manifest.
        files: Every file but the manifest, by name.
    """

    step: int
    seconds: float
    files: dict[str, FileRecord]


def write_manifest(folder: Path, step: int, seconds: float) -> None:
    """Writes the manifest of the files that are in a folder, and waits until it is on disk."""
    files = {path.name: _record(path) for path in sorted(folder.iterdir())}
    path = folder / MANIFEST
    path.write_bytes(_rendered(Manifest(step, seconds, files)))
    sync_file(path)


def verified_manifest(folder: Path) -> Manifest:
    """The manifest of a checkpoint, once every file was found to be what it says.

    Raises:
        CheckpointError: The manifest or a file is missing, cannot be read or was changed.
    """
    manifest = _read(folder / MANIFEST)
    for name, expected in manifest.files.items():
        path = folder / name
        try:
            if not path.is_file():
                raise CheckpointError(f"{name} is missing")
            if path.stat().st_size != expected.bytes:
                size = path.stat().st_size
                raise CheckpointError(f"{name} has {size} bytes instead of {expected.bytes}")
            if _record(path) != expected:
                raise CheckpointError(f"{name} is not what was written (its hash differs)")
        except OSError as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"{name} cannot be read ({error.strerror})") from error
    return manifest


def _read(path: Path) -> Manifest:
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"{MANIFEST} is missing") from error
    except OSError as error:
        raise CheckpointError(f"{MANIFEST} cannot be read ({error.strerror})") from error
    try:
        plain: dict[str, Any] = json.loads(content)
        if plain["format"] != FORMAT:
            raise CheckpointError(
                f"it has the format {plain['format']!r:.20}, and this version of bapo reads only "
                f"{FORMAT}; resume with the one that made it, which environment.json names"
            )
        files = {name: FileRecord(**record) for name, record in plain["files"].items()}
        manifest = Manifest(plain["step"], plain["seconds"], files)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{MANIFEST} is not what was written") from error
    if _rendered(manifest) != content or any(Path(name).name != name for name in files):
        raise CheckpointError(f"{MANIFEST} is not what was written")
    return manifest


def _rendered(manifest: Manifest) -> bytes:
    """The bytes of a manifest, its own hash among them."""
    body: dict[str, Any] = {"format": FORMAT, **asdict(manifest)}
    own = hashlib.sha256(json.dumps(body).encode()).hexdigest()
    return (json.dumps({**body, "sha256": own}, indent=1) + "\n").encode()


def _record(path: Path) -> FileRecord:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileRecord(path.stat().st_size, digest)
