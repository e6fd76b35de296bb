"""Leaving a run on request: SIGTERM and SIGINT are noted, and obeyed between steps."""

import contextlib
import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_NOTE = b"\nbapo: finishing this step and saving; a second signal leaves at once.\n"


class Interruption:
    """A context in which the first SIGTERM or SIGINT is a request and the second one is final.

    Outside the main thread, where Python delivers no signals, it does nothing. A signal that was
    ignored before stays ignored, as `nohup` and background jobs want it.
    """

    def __init__(self) -> None:
        self._requested = False
        self._before: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether the run was asked to leave."""
        return self._requested

    def __enter__(self) -> Self:
        """Takes over the signals."""
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Gives the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        """Notes the first signal; the second one ends the process as if nobody had caught it."""
        if self._requested:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            raise SystemExit(128 + number)
        self._requested = True
        # Not through Python's streams: the signal may have come while one of them was writing.
        with contextlib.suppress(OSError):
            os.write(2, _NOTE)
