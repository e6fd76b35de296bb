"""Looks after something at intervals, from a thread of its own, while its owner is busy."""

import threading
from collections.abc import Callable

from bapo.errors import VerifierError


class Watch:
    """Calls a function every so often until it is stopped.

    The thread ends with `stop`, or when the function fails; a failure is kept for the owner to
    raise. It is a daemon, so that it never keeps a program from ending.

    Args:
        look: What is called, always with the lock held.
        seconds: Between two calls.

    Attributes:
        lock: Whoever touches what `look` touches holds it; the holder may take it again.
        failure: What `look` failed with.
    """

    def __init__(self, look: Callable[[], None], seconds: float) -> None:
        self.lock = threading.RLock()
        self.failure: VerifierError | None = None
        self._look = look
        self._seconds = seconds
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins to look."""
        self._over.clear()
        self._thread = threading.Thread(target=self._run, name="bapo-verifiers", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Looks no more; returns when the thread has ended, unless it is the caller."""
        self._over.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(self._seconds):
            with self.lock:
                if self._over.is_set():
                    return
                try:
                    self._look()
                except VerifierError as error:
                    self.failure = error
                    return
