"""Whatever one verification does, the others are scored and nothing is left behind."""

import time

import pytest

from bapo.types import VerdictStatus
from tests.unit.reward.helpers import (
    LIMIT_SECONDS,
    make_pool,
    nothing_else_lives,
    verify_texts,
)


@pytest.fixture(scope="module")
def pool():
    """One pool for all misdeeds, so that each also shows that the one before did no harm."""
    with make_pool() as opened:
        yield opened


HANGS = ["spin", "sleep", "regex", "stubborn", "fork and hang"]
DEATHS = {
    "exit": "exit code 3",
    "segfault": "SIGSEGV",
    "abort": "SIGABRT",
    "fork and die": "exit code 4",
    "close everything": "ended",
    "close and hang": "ended with signal SIGKILL",
    "garbage": "not JSON",
    "huge frame": "4294967295 bytes",
    "forged": "not running",
    "exhaust": "out of memory",
}
ERRORS = {
    "raise": "ZeroDivisionError: integer division or modulo by zero (misbehaving.py, line",
    "sys.exit": "SystemExit: no more",
    "interrupt": "KeyboardInterrupt",
}
INVALID = {
    "None": "returned None where a list",
    "[None]": "returned None for this completion",
    "nan": "nan, which is not a finite number",
    "inf": "inf, which is not a finite number",
    "too many": "returned 2 results for 1 completion",
    "too few": "returned 0 results for 1 completion",
    "bare number": "returned 1.0 where a list",
    "text": "'1.0' of type str, which is not a finite number",
}


@pytest.mark.parametrize("deed", HANGS)
def test_a_hang_is_killed_in_time_and_the_others_are_scored(pool, deed):
    before = time.monotonic()
    verdicts = verify_texts(pool, "right", deed, "wrong", "right")
    seconds = time.monotonic() - before

    assert [v.status.value for v in verdicts] == ["ok", "timeout", "ok", "ok"]
    assert [v.correct for v in verdicts] == [True, False, False, True]
    assert verdicts[1].detail == "The verifier ran for more than 0.4 s."
    assert LIMIT_SECONDS <= verdicts[1].milliseconds / 1000 < LIMIT_SECONDS + 1
    assert seconds < LIMIT_SECONDS + 1
    assert nothing_else_lives(pool)


@pytest.mark.parametrize(("deed", "detail"), DEATHS.items())
def test_a_death_is_an_error_and_the_others_are_scored(pool, deed, detail):
    verdicts = verify_texts(pool, "right", deed, "wrong", "right")

    assert [v.status.value for v in verdicts] == ["ok", "error", "ok", "ok"]
    assert [v.score for v in verdicts] == [1.0, 0.0, 0.0, 1.0]
    assert detail in verdicts[1].detail
    assert nothing_else_lives(pool)


@pytest.mark.parametrize(("deed", "detail"), ERRORS.items())
def test_an_exception_is_an_error_that_keeps_its_worker(pool, deed, detail):
    workers = set(pool.worker_pids)
    verdicts = verify_texts(pool, "right", deed, "wrong")

    assert [v.status.value for v in verdicts] == ["ok", "error", "ok"]
    assert detail in verdicts[1].detail
    assert set(pool.worker_pids) == workers


@pytest.mark.parametrize(("deed", "detail"), INVALID.items())
def test_what_is_no_verdict_is_invalid_and_never_a_wrong_answer(pool, deed, detail):
    verdicts = verify_texts(pool, "right", deed, "wrong")

    assert [v.status.value for v in verdicts] == ["ok", "invalid", "ok"]
    assert detail in verdicts[1].detail


def test_a_flood_of_output_goes_nowhere_and_standard_input_is_empty(pool, capfd):
    (verdict,) = verify_texts(pool, "flood")

    assert (verdict.status, verdict.correct) == (VerdictStatus.OK, True)
    assert capfd.readouterr() == ("", "")


def test_a_child_that_returns_from_the_verifier_does_not_answer_too(pool):
    workers = sorted(pool.worker_pids)
    verdicts = verify_texts(pool, *["fork and return", "right", "wrong"] * 20)

    assert [v.correct for v in verdicts] == [True, True, False] * 20
    assert sorted(pool.worker_pids) == workers
    assert nothing_else_lives(pool)


def test_all_of_it_at_once(pool):
    deeds = ["right", "spin", "exit", "raise", "nan", "wrong", "regex", "segfault", "right"]
    verdicts = verify_texts(pool, *deeds)

    assert [v.status.value for v in verdicts] == [
        *("ok", "timeout", "error", "error", "invalid", "ok", "timeout", "error", "ok")
    ]


def test_what_was_left_of_a_chunk_is_scored_in_its_place(pool):
    verify_texts(pool, *["right"] * 200)  # fast, so that chunks grow
    texts = ["right", "wrong"] * 100
    for place, deed in {3: "exit", 20: "regex", 21: "spin", 90: "segfault", 199: "exit"}.items():
        texts[place] = deed
    said = {"exit": "error", "segfault": "error", "regex": "timeout", "spin": "timeout"}

    verdicts = verify_texts(pool, *texts)

    assert [v.status.value for v in verdicts] == [said.get(text, "ok") for text in texts]
    assert [v.correct for v in verdicts] == [text == "right" for text in texts]


def test_when_every_item_kills_its_worker_each_gets_its_own_verdict(pool):
    verdicts = verify_texts(pool, *["exit"] * 6)

    assert [v.status.value for v in verdicts] == ["error"] * 6
    assert [v.correct for v in verify_texts(pool, "right", "wrong")] == [True, False]


def test_one_that_suffers_from_the_leak_of_another_is_run_again_in_a_fresh_worker():
    with make_pool(workers=1, timeout_seconds=5.0) as pool:
        verdicts = verify_texts(pool, "leak", "modest", "right")

        assert [(v.status.value, v.correct) for v in verdicts] == [("ok", True)] * 3
        assert pool.metrics()["verifier_workers_replaced"] == 1
