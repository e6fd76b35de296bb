"""The verifier pool: warm worker processes, each killed when an item exceeds its limit."""

import contextlib
import os
import secrets
import selectors
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, NoReturn, Self, cast

from bapo.config import RewardSettings
from bapo.errors import VerifierError
from bapo.reward.latency import LatencyLog, SlowSample
from bapo.reward.loading import LoadError, resolve_name, search_path
from bapo.reward.process import PooledWorker, WorkerProcess, kill_marked
from bapo.reward.protocol import ProtocolError, frame
from bapo.reward.watch import Watch
from bapo.reward.work import Answer, Item, Ticket, WorkQueue
from bapo.types import Columns, Verdict, VerdictStatus

FILE_MEGABYTES: Final = 64
_LOOK_SECONDS: Final = 0.05
_WATCH_SECONDS: Final = 0.1
_START_FAILURES: Final = 3
_STATUSES: Final = frozenset(status.value for status in VerdictStatus)


class VerifierPool:
    """Verifies completions in processes that can be killed; a context manager.

    Life of a worker: started with the pool, it loads the verifier once and answers chunks, item by
    item. The wall-clock limit holds for the item that is running. Over it the worker is killed
    with all it started, that item is `timeout`, and the rest of the chunk goes to another worker. A
    worker that dies, breaks the protocol or runs out of memory makes that item `error`. A killed
    worker is replaced while the others go on; so is one that has answered `recycle_after` items.

    Whether a crash or want of memory is the item's own doing is in doubt where the worker had
    answered others before (one may have left a leak or a thread behind). Such an item is run once
    more, alone in a fresh worker, and that verdict stands.

    Every loop is bounded: an item is run at most twice, each time for at most the limit; a verifier
    that cannot be started again three times in a row is a `VerifierError`. Verdicts do not depend
    on chunks or workers unless the verifier itself keeps state. A checkpoint keeps nothing.
    `submit` never waits, `collect` does. In between a thread looks after the workers, so that
    limits hold and work is handed out while the caller is busy elsewhere.

    Args:
        verifier: `module:function`, or `file.py:function`.
        settings: Limits.
        start_seconds: Limit for importing the verifier.

    Raises:
        VerifierError: On construction, where the name cannot be right; on entering, where the
            verifier cannot be imported or has the wrong signature.
    """

    def __init__(
        self, verifier: str, settings: RewardSettings, *, start_seconds: float = 60.0
    ) -> None:
        self.verifier = verifier
        self.settings = settings
        self._start_seconds = start_seconds
        try:
            resolved = resolve_name(verifier)
        except LoadError as error:
            raise VerifierError(str(error)) from None
        self._setup: dict[str, Any] = {
            "verifier": resolved,
            "path": search_path(),
            "memory_megabytes": settings.memory_megabytes,
            "file_megabytes": FILE_MEGABYTES,
        }
        self._marker = f"{os.getpid()}-{secrets.token_hex(8)}"
        self._interface: dict[str, Any] = {}
        self._workers: list[PooledWorker] = []
        self._selector: selectors.BaseSelector | None = None
        self._log = LatencyLog()
        self._queue = WorkQueue(self._log)
        self._start_failures = 0
        self._started = 0
        self._owner = 0
        self._failure: VerifierError | None = None
        self._watch = Watch(self._advance_unasked, _WATCH_SECONDS)

    def __enter__(self) -> Self:
        """Starts the workers and waits until each has loaded the verifier."""
        self._selector = selectors.DefaultSelector()
        self._failure = None
        self._start_failures = _START_FAILURES - 1  # at the start, the first failure is final
        self._owner = os.getpid()
        with self._watch.lock, contextlib.ExitStack() as on_failure:
            on_failure.callback(self.close)
            self._watch.start()
            for _ in range(self.settings.workers):
                self._start_worker()
            while not all(worker.ready for worker in self._workers):
                self._advance(wait=True)
            on_failure.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes the pool."""
        self.close()

    @property
    def golden_cases(self) -> list[tuple[Answer, dict[str, Any], bool]]:
        """`(completion, columns, expected_correct)` from `GOLDEN` beside the verifier."""
        cases = cast("list[list[Any]]", self._interface.get("golden", []))
        return [(case[0], case[1], case[2]) for case in cases]

    @property
    def named_columns(self) -> tuple[str, ...]:
        """The columns that the verifier's signature names."""
        return tuple(self._interface.get("named", ()))

    @property
    def required_columns(self) -> tuple[str, ...]:
        """The columns that the verifier cannot do without."""
        return tuple(self._interface.get("required", ()))

    @property
    def checks_columns(self) -> bool:
        """Whether there is a `check_columns` beside the verifier."""
        return self._interface.get("checks_columns", False)

    @property
    def worker_pids(self) -> tuple[int, ...]:
        """The process ids of the workers there are now."""
        return tuple(worker.process.pid for worker in self._workers)

    def verify(self, items: Sequence[tuple[Answer, Columns]]) -> list[Verdict]:
        """Verifies completions.

        Args:
            items: `(completion, columns)`; columns are JSON values.

        Returns:
            One verdict for each, in order.

        Raises:
            VerifierError: The pool is not open, or the verifier can no longer be started.
        """
        return self.collect(self.submit(items))

    def submit(self, items: Sequence[tuple[Answer | None, Columns]]) -> Ticket:
        """Hands items over and returns at once; without a completion, columns are checked."""
        with self._watch.lock:
            self._opened()
            ticket = self._queue.submit(items)
            self._advance(wait=False)
        return ticket

    def collect(self, ticket: Ticket) -> list[Verdict]:
        """Waits for all verdicts of a submission; see `verify`."""
        while ticket.missing:
            with self._watch.lock:
                self._advance(wait=True)
        return [verdict for verdict in ticket.verdicts if verdict is not None]

    def close(self) -> None:
        """Kills every worker with all it started; safe to call twice.

        The workers belong to the process that opened the pool: one that was forked from it, in
        which the lock may be held for ever, leaves them alone.
        """
        if os.getpid() != self._owner:
            return
        self._watch.stop()
        with self._watch.lock:
            if self._selector is None:
                return
            self._selector.close()
            self._selector = None
            for worker in self._workers:
                worker.process.kill(stragglers=False)
            self._workers.clear()
            self._queue.clear()
            kill_marked(self._marker)

    def metrics(self) -> dict[str, int | float | None]:
        """Totals of the pool's life: verdicts by status, latency percentiles, workers replaced."""
        with self._watch.lock:
            replaced = max(0, self._started - self.settings.workers)
            return {**self._log.metrics(), "verifier_workers_replaced": replaced}

    def slowest(self) -> tuple[SlowSample, ...]:
        """The ten slowest samples of the pool's life, slowest first."""
        with self._watch.lock:
            return self._log.slowest()

    def _opened(self) -> selectors.BaseSelector:
        failure = self._failure or self._watch.failure
        if failure is not None:
            raise failure
        if self._selector is None:
            raise VerifierError(
                f"The pool of the verifier '{self.verifier}' is not open; use it in a with block."
            )
        return self._selector

    def _advance_unasked(self) -> None:
        """What the watch does while nobody waits for an answer."""
        if self._selector is not None and not all(worker.idle for worker in self._workers):
            self._advance(wait=False)

    def _advance(self, *, wait: bool) -> None:
        """One round: hand out work, take in answers, look after the workers.

        Answers come before deadlines: a caller that was away for long must not have killed what
        was answered in time.
        """
        self._dispatch()
        for key, events in self._opened().select(self._patience() if wait else 0):
            worker = cast("PooledWorker", key.data)
            if events & selectors.EVENT_WRITE:
                worker.process.flush()
            if events & selectors.EVENT_READ:
                self._take_in(worker)
        for worker in list(self._workers):
            if worker in self._workers:
                self._look_after(worker)
        self._dispatch()

    def _patience(self) -> float:
        """Seconds until a deadline or, before that, until dead workers are to be looked for."""
        now = time.monotonic()
        limits = [self._limit(worker) - now for worker in self._workers if not worker.idle]
        return max(0.0, min([_LOOK_SECONDS, *limits]))

    def _limit(self, worker: PooledWorker) -> float:
        seconds = self.settings.timeout_seconds if worker.ready else self._start_seconds
        return worker.since + seconds

    def _dispatch(self) -> None:
        """Gives every idle worker a chunk, and renews those that have served their time.

        An item in doubt never waits in vain: the worker that broke under it was replaced by a fresh
        one, and fresh workers take items in doubt before any other.
        """
        queue = self._queue
        for worker in [worker for worker in self._workers if worker.idle]:
            if queue.has_doubtful and worker.answered == 0:
                self._hand_out(worker, queue.next_doubtful())
            elif worker.answered >= self.settings.recycle_after:
                self._replace(worker)
            elif queue.has_pending:
                self._hand_out(worker, queue.next_chunk(len(self._workers)))
        for worker in self._workers:
            write = selectors.EVENT_WRITE if worker.process.has_unsent else 0
            if worker.watched != selectors.EVENT_READ | write:
                worker.watched = selectors.EVENT_READ | write
                self._opened().modify(worker.process, worker.watched, worker)

    def _hand_out(self, worker: PooledWorker, items: list[Item]) -> None:
        worker.items.extend(items)
        worker.since = time.monotonic()
        worker.process.send(frame(b"[" + b",".join(item.body for item in items) + b"]"))

    def _take_in(self, worker: PooledWorker) -> None:
        """Takes in what a worker has said; one that breaks the protocol is ended."""
        try:
            for message in worker.process.receive():
                if worker.ready:
                    self._take_answer(worker, message)
                else:
                    self._take_greeting(worker, message)
                if worker not in self._workers:
                    return
        except ProtocolError as error:
            self._give_up(worker, f"The verifier's process broke the protocol with {error}.")

    def _take_greeting(self, worker: PooledWorker, message: Any) -> None:
        """Takes in what a worker says when it has loaded the verifier, or has not."""
        match message:
            case {"interface": interface}:
                self._interface = cast("dict[str, Any]", interface)
                self._start_failures = 0
                worker.ready = True
            case {"failed": str(sentence)}:
                self._fail_to_start(worker, sentence)
            case _:
                raise ProtocolError("an unknown greeting")

    def _take_answer(self, worker: PooledWorker, message: Any) -> None:
        """Takes in the verdict on the item that a worker is running."""
        verdict, number, out_of_memory = self._read_answer(message)
        if not worker.items or worker.items[0].number != number:
            raise ProtocolError("an answer to an item that it was not running")
        item = worker.items.popleft()
        if out_of_memory:
            self._queue.blame(item, verdict, worker_was_fresh=worker.answered == 0)
            self._replace(worker)
            return
        worker.answered += 1
        worker.since = time.monotonic()
        self._queue.answer(item, verdict)

    def _read_answer(self, message: Any) -> tuple[Verdict, int, bool]:
        """Verdict, item number, and whether memory ran out, from a worker's answer."""
        match message:
            case [
                int(number),
                float(milliseconds),
                [str(status), correct, float(score), str(detail), bool(out_of_memory)],
            ] if status in _STATUSES:
                right = score >= self.settings.correct_at if correct is None else correct is True
                verdict = Verdict(right, score, VerdictStatus(status), milliseconds, detail)
                if milliseconds > self.settings.timeout_seconds * 1000.0:
                    verdict = self._overdue(milliseconds)
                return verdict, number, out_of_memory
            case _:
                raise ProtocolError("an unknown answer")

    def _look_after(self, worker: PooledWorker) -> None:
        """Ends a worker that has died or is over its limit."""
        if worker.process.is_dead():
            self._take_in(worker)  # what it had answered before
            if worker in self._workers:
                self._give_up(worker, "")
        elif worker.process.at_end:
            self._give_up(worker, "")
        elif not worker.idle and time.monotonic() >= self._limit(worker):
            self._time_out(worker)

    def _time_out(self, worker: PooledWorker) -> None:
        """Kills a worker over its limit; the item it was running is `timeout`."""
        if not worker.ready:
            self._fail_to_start(
                worker,
                f"The verifier '{self.verifier}' was not imported within {self._start_seconds:g} "
                "seconds; do less when it is imported.",
            )
            return
        verdict = self._overdue((time.monotonic() - worker.since) * 1000.0)
        self._queue.settle(worker.items.popleft(), verdict)
        self._replace(worker)

    def _overdue(self, milliseconds: float) -> Verdict:
        detail = f"The verifier ran for more than {self.settings.timeout_seconds:g} s."
        return Verdict(False, 0.0, VerdictStatus.TIMEOUT, milliseconds, detail)

    def _give_up(self, worker: PooledWorker, why: str) -> None:
        """Ends a worker that died or cannot be trusted; the item it was running is `error`."""
        seconds = time.monotonic() - worker.since
        ending = self._retire(worker)
        detail = why or f"The verifier's process ended with {ending}."
        if not worker.ready:
            self._fail_to_start(worker, f"The verifier '{self.verifier}' does not start: {detail}")
            return
        if worker.items:
            verdict = Verdict(False, 0.0, VerdictStatus.ERROR, seconds * 1000.0, detail)
            fresh = worker.answered == 0
            self._queue.blame(worker.items.popleft(), verdict, worker_was_fresh=fresh)
        self._replace(worker)

    def _fail_to_start(self, worker: PooledWorker, sentence: str) -> None:
        """Replaces a worker that could not load the verifier, but not for ever."""
        self._start_failures += 1
        if self._start_failures >= _START_FAILURES:
            self._fail(sentence)
        self._replace(worker)

    def _fail(self, sentence: str) -> NoReturn:
        """Closes the pool; whoever uses it from now on is told why."""
        self._failure = VerifierError(sentence)
        self.close()
        raise self._failure

    def _replace(self, worker: PooledWorker) -> None:
        """Kills a worker and starts another; what was left of its chunk is run next."""
        self._retire(worker)
        self._queue.put_back(worker.items)
        self._start_worker()

    def _retire(self, worker: PooledWorker) -> str:
        """Kills a worker, if it still is one, and says how it ended."""
        if worker in self._workers:
            self._opened().unregister(worker.process)
            self._workers.remove(worker)
        return worker.process.kill()

    def _start_worker(self) -> None:
        try:
            process = WorkerProcess(self._setup, self._marker, self.settings.pass_environment)
        except OSError as error:
            self._fail(f"No process can be started for the verifier '{self.verifier}': {error}.")
        worker = PooledWorker(process, time.monotonic())
        self._started += 1
        self._workers.append(worker)
        self._opened().register(process, worker.watched, worker)
