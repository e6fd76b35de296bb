"""Disks that refuse to be written to: it is the kernel that refuses, not a function that lies.

Each is made in a process of its own. Where the kernel lets a process have mounts of its own, the
disk is a small file system in memory that only this process sees and that ends with it.
"""

import contextlib
import ctypes
import json
import os
import resource
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Self

from bapo.selftest.killing import Command, arrange
from bapo.selftest.results import NotPossibleError
from bapo.training.checkpoints import CheckpointStore

_NEW_MOUNTS, _NEW_USER = 0x00020000, 0x10000000  # CLONE_NEWNS, CLONE_NEWUSER
_READ_ONLY, _REMOUNT, _BIND, _ALL_BELOW, _PRIVATE = 1, 32, 4096, 16384, 1 << 18
_LEFT_BYTES = 64 << 10
_FILE_BYTES = 20 << 10
REFUSED_AFTER = 4
"""The step after which the disk refuses: lines of two steps still fit, the checkpoint does not."""


@dataclass(frozen=True, slots=True)
class DiskReport:
    """What became of a run on a disk that refused it.

    Attributes:
        impossible: Why such a disk cannot be made here; empty where it can.
        code: How the run ended on it.
        usable: The step of the newest checkpoint that verified then.
        resumed: How the run ended when it was resumed on a disk that had room again.
    """

    impossible: str = ""
    code: int | None = None
    usable: int | None = None
    resumed: int | None = None

    @classmethod
    def read(cls, path: Path) -> Self:
        """What `write` wrote."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def write(self, path: Path) -> None:
        """Writes the report for the process that asked for it."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")


class Disk:
    """A place to write to that can be made to refuse.

    Args:
        place: A folder that is not there yet.
    """

    reason: ClassVar[str] = ""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.checkpoints = place / "run" / "checkpoints"

    def make(self) -> None:
        """Makes the folder.

        Raises:
            NotPossibleError: Such a disk cannot be made here.
        """
        self.place.mkdir()

    def refuse(self) -> None:
        """From now on a checkpoint cannot be written."""
        raise NotImplementedError

    def give_room(self) -> None:
        """From now on it can."""
        raise NotImplementedError


class FullDisk(Disk):
    """A file system of 8 MB that is filled up, but for room for some lines."""

    reason = "a real file system"

    def make(self) -> None:
        """Mounts the file system."""
        self.place.mkdir()
        _mount_memory(self.place)

    def refuse(self) -> None:
        """Fills it."""
        with (self.place / "filler").open("wb", buffering=0) as file:
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(4096))
            file.truncate(file.tell() - _LEFT_BYTES)

    def give_room(self) -> None:
        """Empties it."""
        (self.place / "filler").unlink()


class ReadOnlyDisk(FullDisk):
    """A file system that becomes read-only where the checkpoints are, for root too."""

    def refuse(self) -> None:
        """Mounts the folder over itself, read-only."""
        path = str(self.checkpoints)
        _mount(path, path, "", _BIND, "")
        _mount(path, path, "", _BIND | _REMOUNT | _READ_ONLY, "")

    def give_room(self) -> None:
        """Takes that mount away."""
        _called(_libc().umount2(str(self.checkpoints).encode(), 0), "umount")


class FileLimit(Disk):
    """The kernel lets no file of this process grow beyond 20 kB."""

    reason = "by RLIMIT_FSIZE"

    def refuse(self) -> None:
        """Sets the limit, which can be taken back."""
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_BYTES, hard))

    def give_room(self) -> None:
        """Takes it back."""
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


class Permissions(Disk):
    """The folder of the checkpoints has no write permission, which binds all but root."""

    reason = "by chmod"

    def make(self) -> None:
        """Makes the folder."""
        if os.geteuid() == 0:
            raise NotPossibleError("root may write everywhere")
        super().make()

    def refuse(self) -> None:
        """Takes the permission away."""
        self.checkpoints.chmod(0o500)

    def give_room(self) -> None:
        """Gives it back."""
        self.checkpoints.chmod(0o700)


def run_on_disk(
    disk: type[Disk],
    command: Command,
    arguments: tuple[str, ...],
    place: Path,
    kept: Path,
    answer: Path,
) -> None:
    """Trains on a disk that refuses the second checkpoint after the base's, then gives it room.

    Args:
        disk: What kind of disk.
        command: The command line.
        arguments: To train a run in `place / "run"`.
        place: Where the disk is made.
        kept: Gets the run in the end, since the disk may end with this process.
        answer: Gets the report.
    """
    made = disk(place)
    try:
        made.make()
    except NotPossibleError as error:
        DiskReport(impossible=str(error)).write(answer)
        return
    arrange("after-step", REFUSED_AFTER, made.refuse)
    code = _exit_code(command, arguments)
    found = CheckpointStore(made.checkpoints, 2).newest(lambda _: None, lambda _: None)
    made.give_room()
    resumed = _exit_code(command, (*arguments, "--resume"))
    shutil.copytree(place / "run", kept)
    DiskReport("", code, found and found.manifest.step, resumed).write(answer)


def _exit_code(command: Command, arguments: tuple[str, ...]) -> int:
    with _arguments(arguments):
        try:
            command()
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


@contextmanager
def _arguments(arguments: tuple[str, ...]) -> Iterator[None]:
    before, sys.argv = sys.argv, ["bapo", *arguments]
    try:
        yield
    finally:
        sys.argv = before


def _mount_memory(place: Path) -> None:
    """Mounts a file system of 8 MB that only this process sees.

    Raises:
        NotPossibleError: The kernel does not allow it.
    """
    user, group = os.getuid(), os.getgid()
    try:
        if user != 0 or _libc().unshare(_NEW_MOUNTS) != 0:
            _called(_libc().unshare(_NEW_MOUNTS | _NEW_USER), "unshare")
            Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
            Path("/proc/self/uid_map").write_text(f"0 {user} 1", encoding="ascii")
            Path("/proc/self/gid_map").write_text(f"0 {group} 1", encoding="ascii")
        _mount("none", "/", "", _ALL_BELOW | _PRIVATE, "")
        _mount("tmpfs", str(place), "tmpfs", 0, "size=8m")
    except (OSError, AttributeError) as error:
        raise NotPossibleError(
            f"the kernel lets this user mount no file system ({error})"
        ) from error


def _mount(source: str, target: str, kind: str, flags: int, options: str) -> None:
    texts = [text.encode() for text in (source, target, kind)]
    _called(_libc().mount(*texts, ctypes.c_ulong(flags), options.encode()), "mount")


def _called(result: int, name: str) -> None:
    """Raises an `OSError` for a call of the C library that failed."""
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
