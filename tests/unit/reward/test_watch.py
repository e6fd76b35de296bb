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


def test_the_first_failure_ends_it():
    looks: list[float] = []

    def fail() -> None:
        looks.append(time.monotonic())
        raise VerifierError("The verifier does not start.")

    watch = Watch(fail, 0.001)
    watch.start()
    deadline = time.monotonic() + 10.0
    while not looks and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    watch.stop()

    assert len(looks) == 1
