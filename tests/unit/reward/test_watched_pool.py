"""Two threads at one pool: its user's, and the one that looks after the workers meanwhile."""

import os
import signal
import threading
from pathlib import Path

import pytest

from bapo.errors import VerifierError
from bapo.reward import GroupVerifier
from bapo.reward.pool import VerifierPool
from tests.builders import make_completion, make_rollout
from tests.unit.reward.helpers import MISBEHAVING, living_workers, make_pool, wait_until

pytestmark = pytest.mark.timeout(60)  # what hangs here would hang for ever

WATCH = "bapo-verifiers"


def watching() -> list[threading.Thread]:
    """The watches that live; one, in these tests, or none."""
    return [thread for thread in threading.enumerate() if thread.name == WATCH]


def watch_ended() -> bool:
    return wait_until(lambda: not watching(), 20.0)


def in_the_watch() -> bool:
    return threading.current_thread().name == WATCH


def rollout_of(*texts: str):
    return make_rollout(completions=[make_completion(text=text) for text in texts])


def test_a_verifier_that_is_lost_while_the_caller_samples_stops_it_at_its_next_rollout(tmp_path):
    copy = tmp_path / "copy.py"
    copy.write_text(Path(MISBEHAVING.rpartition(":")[0]).read_text())
    with make_pool(f"{copy}:misbehave", workers=1) as pool:
        verify = GroupVerifier(pool)
        first = rollout_of("sleep", "right")
        copy.unlink()
        verify.begin(first)
        assert watch_ended()  # nobody asks; the caller would be sampling
        assert living_workers() == []
        with pytest.raises(VerifierError, match="No such file"):
            verify.begin(rollout_of("right"))
        with pytest.raises(VerifierError, match="No such file"):
            verify([first])


def test_whatever_breaks_the_watch_is_raised_where_somebody_waits_and_where_work_comes(monkeypatch):
    look_after = VerifierPool._look_after

    def break_the_watch(pool, worker):
        if in_the_watch():
            raise KeyError("a bug")
        look_after(pool, worker)

    monkeypatch.setattr(VerifierPool, "_look_after", break_the_watch)
    with make_pool(workers=1, timeout_seconds=100.0) as pool:
        ticket = pool.submit([("sleep", {})])
        assert watch_ended()
        with pytest.raises(KeyError, match="a bug"):
            pool.collect(ticket)
        with pytest.raises(KeyError, match="a bug"):
            pool.submit([("right", {})])
    assert living_workers() == []

    monkeypatch.undo()
    with pool:
        assert [verdict.correct for verdict in pool.verify([("right", {})])] == [True]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_leaving_while_the_watch_replaces_a_worker_ends_them_all(monkeypatch, error):
    replacing = threading.Event()
    replace = VerifierPool._replace

    def replace_slowly(pool, worker):
        assert in_the_watch()
        replacing.set()
        assert pool._watch._over.wait(20.0)  # until the caller is on its way out
        replace(pool, worker)

    def leave_meanwhile() -> None:
        with make_pool() as pool:
            pool.submit([("sleep", {}), ("sleep", {})])
            assert replacing.wait(20.0)
            raise error

    monkeypatch.setattr(VerifierPool, "_replace", replace_slowly)
    with pytest.raises(error):
        leave_meanwhile()
    assert watching() == []
    assert living_workers() == []


def test_a_signal_that_ends_the_wait_for_a_verdict_ends_the_workers(monkeypatch):
    caller, waits = threading.get_ident(), threading.Event()
    patience = VerifierPool._patience

    def wait_with_the_lock(pool) -> float:  # only who waits asks, and with the lock held
        waits.set()
        return patience(pool)

    def interrupt_once_it_waits() -> None:
        assert waits.wait(20.0)
        signal.pthread_kill(caller, signal.SIGINT)

    def wait_for_a_verdict() -> None:
        with make_pool(workers=1, timeout_seconds=100.0) as pool:
            monkeypatch.setattr(VerifierPool, "_patience", wait_with_the_lock)
            threading.Thread(target=interrupt_once_it_waits).start()
            pool.verify([("sleep", {})])

    with pytest.raises(KeyboardInterrupt):
        wait_for_a_verdict()
    assert watching() == []
    assert living_workers() == []


def test_a_pool_whose_watch_cannot_be_started_leaves_no_worker(monkeypatch):
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start new thread"), make_pool():
        pass
    assert living_workers() == []


@pytest.mark.parametrize("read", [VerifierPool.metrics, VerifierPool.slowest])
def test_figures_are_not_read_while_the_watch_writes_them(read):
    with make_pool(workers=1) as pool:
        done = threading.Event()
        reader = threading.Thread(target=lambda: (read(pool), done.set()))
        with pool._watch.lock:
            reader.start()
            assert not done.wait(0.1)
        assert done.wait(10.0)
        reader.join()


def test_a_forked_process_neither_waits_for_the_pool_nor_ends_its_workers():
    with make_pool(workers=1) as pool:
        held, let_go = threading.Event(), threading.Event()

        def hold() -> None:
            with pool._watch.lock:
                held.set()
                assert let_go.wait(20.0)

        holder = threading.Thread(target=hold)
        holder.start()
        assert held.wait(10.0)
        child = os.fork()
        if not child:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(10)  # the lock is held for ever in the child
            pool.close()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        let_go.set()
        holder.join()
        assert os.waitstatus_to_exitcode(status) == 0
        before = pool.worker_pids
        assert [verdict.correct for verdict in pool.verify([("right", {})])] == [True]
        assert pool.worker_pids == before
