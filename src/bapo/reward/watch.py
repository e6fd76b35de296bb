"""Looks after something at intervals, from a thread of its own, while its owner is busy."""

import threading
from collections.abc import Callable


class Watch:
    """Calls a function every so often until it is stopped.

    The thread ends with `stop`, or with the first exception, whatever it is: it is kept for the
    owner to raise where somebody waits, since nobody waits for a thread. It is a daemon, so that it
    never keeps a program from ending.

    Args:
        look: What is called, always with the lock held.
        seconds: Between two calls.

    Attributes:
        lock: Whoever touches what `look` touches holds it; the holder may take it again, and may
            stop the watch. A look that is due while somebody else holds it is left out.
        failure: What ended the thread; None while nothing has.
    """

    def __init__(self, look: Callable[[], None], seconds: float) -> None:
        self.lock = threading.RLock()
        self.failure: Exception | None = None
        self._look = look
        self._seconds = seconds
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins to look."""
        self._over.clear()
        self.failure = None
        thread = threading.Thread(target=self._run, name="bapo-verifiers", daemon=True)
        thread.start()
        self._thread = thread  # only a thread that was started can be waited for

    def stop(self) -> None:
        """Looks no more; returns when the thread has ended, unless it is the caller."""
        self._over.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(self._seconds):
            # Whoever holds the lock looks after things itself, and may be about to stop this thread
            # and wait for its end: to wait for the lock here would be to wait for each other.
            if not self.lock.acquire(blocking=False):
                continue
            try:
                self._look()
            except Exception as error:
                self.failure = error
                return
            finally:
                self.lock.release()
