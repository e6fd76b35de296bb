"""The thread that looks after the workers while the caller is busy."""

import threading
import time

import pytest

from bapo.errors import VerifierError
from bapo.reward.watch import Watch


@pytest.mark.timeout(20)
def test_whoever_holds_the_lock_may_stop_the_watch_while_a_look_is_due():
    watch = Watch(lambda: None, 0.001)
    watch.start()

    with watch.lock:
        time.sleep(0.1)  # many looks fall due meanwhile
        watch.stop()


def test_it_looks_with_the_lock_held_and_not_while_somebody_else_holds_it():
    looked = threading.Event()
    watch = Watch(looked.set, 0.001)

    with watch.lock:
        watch.start()
        assert not looked.wait(0.1)
    assert looked.wait(10.0)
    watch.stop()


@pytest.mark.parametrize("failure", [VerifierError("It does not start."), KeyError("a bug")])
def test_the_first_failure_ends_it_and_is_kept_whatever_it_is(failure):
    looks: list[float] = []
    looked = threading.Event()

    def fail() -> None:
        looks.append(time.monotonic())
        looked.set()
        raise failure

    watch = Watch(fail, 0.001)
    watch.start()
    assert looked.wait(10.0)
    time.sleep(0.1)  # many looks would fall due meanwhile
    watch.stop()

    assert len(looks) == 1
    assert watch.failure is failure
    assert watch.lock.acquire(blocking=False)


def test_stopping_waits_for_the_look_that_is_under_way():
    looking, go_on = threading.Event(), threading.Event()

    def look() -> None:
        looking.set()
        assert go_on.wait(10.0)

    watch = Watch(look, 0.001)
    watch.start()
    assert looking.wait(10.0)
    stopper = threading.Thread(target=watch.stop)
    stopper.start()
    stopper.join(0.1)
    assert stopper.is_alive()
    go_on.set()
    stopper.join(10.0)

    assert not stopper.is_alive()
    assert watch.failure is None


def test_the_look_itself_may_stop_the_watch():
    stopped = threading.Event()

    def look() -> None:
        watch.stop()
        stopped.set()

    watch = Watch(look, 0.001)
    watch.start()
    assert stopped.wait(10.0)
    watch.stop()


def test_a_thread_that_cannot_be_started_is_not_waited_for(monkeypatch):
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    watch = Watch(lambda: None, 0.001)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            watch.start()
    watch.stop()
