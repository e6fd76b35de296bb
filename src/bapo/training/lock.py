"""The lock of a run folder: one process at a time."""

import fcntl
import os
from pathlib import Path

from bapo.errors import RunFolderError

LOCK = ".lock"


class FolderLock:
    """An exclusive lock on a folder, held by the operating system.

    Life cycle: taken on construction, let go by `release` or by the end of the process, however it
    ends; the file itself stays and means nothing. It holds the process id of the last owner, for
    messages only.

    Args:
        folder: A folder that is there.

    Raises:
        RunFolderError: Another process has the lock, or the file system has no locks.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / LOCK
        try:
            # Not inheritable, so that no child process can keep the lock alive.
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise RunFolderError(
                f"The folder '{folder}' cannot be written to: {error.strerror}."
            ) from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(self._descriptor, 32).decode(errors="replace").strip()
            self.release()
            raise RunFolderError(
                f"The folder '{folder}' is in use by another run (process {owner}); wait for its "
                "end, or name another --output."
            ) from None
        except OSError as error:
            self.release()
            raise RunFolderError(
                f"The folder '{folder}' cannot be locked ({error.strerror}); put the run on a file "
                "system that has locks."
            ) from None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Lets the folder go; safe to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
