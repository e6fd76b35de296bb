"""One verifier process, from the pool's side: start it, talk to it, kill it with all it started."""

import contextlib
import os
import secrets
import selectors
import signal
import socket
import subprocess
import sys
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import bapo
from bapo.reward.protocol import FrameReader, encode
from bapo.reward.work import Item

MARKER_VARIABLE: Final = "BAPO_VERIFIER_WORKER"
FILE_MEGABYTES: Final = 64
_REAP_SECONDS: Final = 1.0
_PASSED_ON: Final = (
    *("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "TZ", "LANG", "LANGUAGE", "LD_LIBRARY_PATH"),
    *("VIRTUAL_ENV", "CONDA_PREFIX", "XDG_CACHE_HOME", "NLTK_DATA"),
)
_SET: Final = {
    "CUDA_VISIBLE_DEVICES": "",
    "PYTHONHASHSEED": "0",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


class WorkerProcess:
    """A process of `bapo.reward.worker`, its channel and its lifeline.

    It leads a session of its own, so that one signal reaches whatever it forked. What it forked
    into another session is found by a marker in the environment, which children inherit.

    Args:
        setup: The first message, see `bapo.reward.worker`.
        marker: Begins the marker; the same for all workers of a pool.
        environment: Names of variables that are passed on besides the harmless ones.
    """

    def __init__(self, setup: dict[str, Any], marker: str, environment: tuple[str, ...]) -> None:
        self.marker = f"{marker}-{secrets.token_hex(8)}"
        self.at_end = False  # whether the worker has closed its channel
        self._reader = FrameReader()
        self._unsent = bytearray(encode(setup))
        self._channel, theirs = socket.socketpair()
        lifeline_read, self._lifeline = os.pipe()
        try:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "bapo.reward.worker"),
                    *(str(theirs.fileno()), str(lifeline_read)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=scrubbed_environment(self.marker, environment),
                pass_fds=(theirs.fileno(), lifeline_read),
                start_new_session=True,
            )
        except OSError:
            self._channel.close()
            os.close(self._lifeline)
            raise
        finally:
            theirs.close()
            os.close(lifeline_read)
        self._channel.setblocking(False)

    @property
    def pid(self) -> int:
        """The process id, which is also its group's and its session's."""
        return self._process.pid

    def fileno(self) -> int:
        """The channel's descriptor, for a selector."""
        return self._channel.fileno()

    @property
    def has_unsent(self) -> bool:
        """Whether `flush` has something left to send."""
        return bool(self._unsent)

    def send(self, framed: bytes) -> None:
        """Takes a frame and sends what fits now; the rest waits for `flush`.

        The pool never blocks on a worker: one that hangs does not read either.
        """
        self._unsent += framed
        self.flush()

    def flush(self) -> None:
        """Sends what fits now; a worker that is gone is noticed by `is_dead`."""
        try:
            while self._unsent:
                sent = self._channel.send(self._unsent[: 1 << 18])
                del self._unsent[:sent]
        except BlockingIOError:
            return
        except OSError:
            self._unsent.clear()

    def receive(self) -> list[Any]:
        """The messages that have arrived.

        Raises:
            ProtocolError: The worker sent something that is not a message.
        """
        messages: list[Any] = []
        try:
            while data := self._channel.recv(1 << 18):
                messages += self._reader.feed(data)
        except BlockingIOError:
            return messages
        except ConnectionResetError:
            pass
        self.at_end = True
        return messages

    def is_dead(self) -> bool:
        """Whether the process has ended; it is left unreaped, so that its id stays its own."""
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        try:
            return os.waitid(os.P_PID, self.pid, flags) is not None
        except ChildProcessError:  # somebody else in this process reaped it
            return True

    def kill(self, *, stragglers: bool = True) -> str:
        """Kills the process with all it started and closes everything; safe to call twice.

        Args:
            stragglers: Whether to look for what left the session, too; a look at all processes.

        Returns:
            How the process ended, in words: `exit code 3`, `signal SIGSEGV`.
        """
        if self._process.returncode is None:
            # Before the process is reaped: until then no other group can have this number.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            # A process in uninterruptible I/O is left to the kernel, which has its signal.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_REAP_SECONDS)
            if stragglers:
                kill_marked(self.marker)
            self._channel.close()
            os.close(self._lifeline)
        return _ending(self._process.returncode)


def scrubbed_environment(marker: str, names: tuple[str, ...]) -> dict[str, str]:
    """The environment of a worker: no secrets, no accelerator, one thread, fixed hashes.

    Args:
        marker: The worker's marker.
        names: Variables that the recipe passes on.
    """
    kept = [*_PASSED_ON, *names, *(name for name in os.environ if name.startswith("LC_"))]
    passed = {name: os.environ[name] for name in kept if name in os.environ}
    package_home = str(Path(bapo.__file__).resolve().parents[1])
    return {**_SET, **passed, "PYTHONPATH": package_home, MARKER_VARIABLE: marker}


@dataclass(slots=True, eq=False)
class PooledWorker:
    """A worker process and what it is doing.

    Attributes:
        process: The process.
        since: When it was started, given its chunk, or last answered; monotonic seconds.
        ready: Whether it has loaded the verifier.
        watched: The events that the selector looks for.
        answered: Items answered in its life.
        items: What is left of its chunk; the first one is running.
    """

    process: WorkerProcess
    since: float
    ready: bool = False
    watched: int = selectors.EVENT_READ | selectors.EVENT_WRITE
    answered: int = 0
    items: deque[Item] = field(default_factory=lambda: deque[Item]())

    @property
    def idle(self) -> bool:
        """Whether it could take a chunk."""
        return self.ready and not self.items


def kill_marked(marker: str) -> None:
    """Kills every process of this user whose environment has the marker, until there is none."""
    needle = f"{MARKER_VARIABLE}={marker}".encode()
    for _ in range(100):  # each round can only meet what was forked during the round before
        found = [pid for pid in _processes() if needle in _environment_of(pid)]
        if not found:
            return
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def _processes() -> list[int]:
    """The ids of all processes; none where there is no /proc."""
    with contextlib.suppress(OSError):
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return []


def _environment_of(pid: int) -> bytes:
    """The environment a process was started with; empty for a zombie or another user's process."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
        return file.read()
    return b""


def _ending(returncode: int | None) -> str:
    if returncode is None:
        return "a signal it has not yet obeyed"
    if returncode >= 0:
        return f"exit code {returncode}"
    try:
        return f"signal {signal.Signals(-returncode).name}"
    except ValueError:
        return f"signal {-returncode}"
