"""What the pool does when nothing breaks: order, columns, tickets, speed, counts."""

import threading
import time

import pytest

from bapo.errors import VerifierError
from bapo.reward import GroupVerifier, check_verifier, column_faults
from bapo.types import ChatMessage, Verdict, VerdictStatus
from tests.builders import make_completion, make_prompt, make_rollout
from tests.unit.reward.helpers import make_pool, verify_texts, write_verifier

COUNTDOWN = "bapo.reward.verifiers.countdown:verify"


@pytest.fixture
def echo(tmp_path):
    """A pool whose verifier scores a text by the number that it holds."""
    source = "def verify(completions, **columns): return [float(text) for text in completions]"
    with make_pool(write_verifier(tmp_path, source)) as pool:
        yield pool


def test_verdicts_come_in_the_order_of_the_items(echo):
    assert [v.score for v in verify_texts(echo, *map(str, range(1000)))] == list(range(1000))


def test_no_items_give_no_verdicts(echo):
    assert echo.verify([]) == []


def test_submissions_overlap_and_are_collected_in_any_order(echo):
    first = echo.submit([("1", {}), ("2", {})])
    second = echo.submit([("3", {})])

    assert [v.score for v in echo.collect(second)] == [3.0]
    assert [v.score for v in echo.collect(first)] == [1.0, 2.0]


def wait_for(done, seconds=20.0):
    """Waits without calling the pool, as a caller does who is busy sampling."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_submission_is_worked_off_while_the_caller_is_busy(echo):
    ticket = echo.submit([("1", {})] * 300)
    wait_for(lambda: not ticket.missing)


def test_a_hanging_item_is_killed_in_time_while_the_caller_is_busy():
    with make_pool(timeout_seconds=0.4) as pool:
        before = set(pool.worker_pids)
        ticket = pool.submit([("spin", {}), ("right", {})])
        began = time.monotonic()
        wait_for(lambda: not ticket.missing)
        assert time.monotonic() - began < 0.4 + 1.0
        assert [v.status.value for v in pool.collect(ticket)] == ["timeout", "ok"]
        assert len(before - set(pool.worker_pids)) == 1


def test_an_answer_after_the_limit_is_a_timeout_whenever_it_is_read():
    """The lock is held, so that nobody looks until both have answered."""
    with make_pool(timeout_seconds=0.4) as pool:
        ticket = pool.submit([("wait 0.9", {}), ("right", {})])
        with pool._watch.lock:
            time.sleep(1.5)
        assert [v.status.value for v in pool.collect(ticket)] == ["timeout", "ok"]


def test_no_thread_is_left_when_the_pool_is_closed():
    before = threading.active_count()
    with make_pool() as pool:
        assert threading.active_count() == before + 1
        pool.verify([("right", {})])
    assert threading.active_count() == before


def test_what_was_answered_in_time_counts_though_the_caller_came_back_late():
    with make_pool(timeout_seconds=0.3) as pool:
        ticket = pool.submit([("right", {}), ("wrong", {})])
        time.sleep(0.6)
        assert [v.status.value for v in pool.collect(ticket)] == ["ok", "ok"]


def test_the_limit_holds_for_each_item_and_not_for_all():
    with make_pool(timeout_seconds=0.4, workers=1) as pool:
        verdicts = verify_texts(pool, *["wait 0.15"] * 4)

    assert [v.correct for v in verdicts] == [True] * 4
    assert all(140 < v.milliseconds < 400 for v in verdicts)


def test_a_text_larger_than_any_pipe_arrives_whole(tmp_path):
    source = "def verify(completions): return [float(len(completions[0]))]"
    with make_pool(write_verifier(tmp_path, source)) as pool:
        verdicts = verify_texts(pool, "a" * 5_000_000, "é\ud800\x00\n" * 1000, "")

    assert [v.score for v in verdicts] == [5_000_000.0, 4000.0, 0.0]


def test_a_verifier_is_given_only_the_columns_that_it_names(tmp_path):
    source = "def verify(completions, gold, note='none'): return [gold == ['g'] and note == ['n']]"
    with make_pool(write_verifier(tmp_path, source)) as pool:
        named, missing = pool.verify([("", {"gold": "g", "note": "n", "id": 3}), ("", {"id": 3})])
        assert (pool.named_columns, pool.required_columns) == (("gold", "note"), ("gold",))

    assert named.correct
    assert missing.status is VerdictStatus.ERROR
    assert missing.detail == "The verifier needs the column 'gold', which this prompt lacks."


def test_columns_that_are_not_json_are_an_error_of_their_item_alone(echo):
    verdicts = echo.verify([("1", {}), ("2", {"gold": {1, 2}}), ("3", {})])

    assert [v.status.value for v in verdicts] == ["ok", "error", "ok"]
    assert "The prompt's columns are not JSON values" in verdicts[1].detail


def test_a_score_is_correct_from_the_threshold_on(tmp_path):
    source = "def verify(completions): return [float(completions[0])]"
    with make_pool(write_verifier(tmp_path, source), correct_at=0.5) as pool:
        verdicts = verify_texts(pool, "0.49", "0.5", "-3", "7")

    assert [v.correct for v in verdicts] == [False, True, False, True]
    assert [v.score for v in verdicts] == [0.49, 0.5, -3.0, 7.0]


def test_a_bool_is_correctness_itself_whatever_the_threshold(tmp_path):
    source = "def verify(completions): return [completions[0] == 'y']"
    with make_pool(write_verifier(tmp_path, source), correct_at=2.0) as pool:
        verdicts = verify_texts(pool, "y", "n")

    assert [(v.correct, v.score) for v in verdicts] == [(True, 1.0), (False, 0.0)]


def test_a_verdict_and_a_mapping_are_taken_as_they_are(tmp_path):
    source = """
from bapo.types import Verdict, VerdictStatus
def verify(completions):
    if completions[0] == "verdict":
        return [Verdict(True, 0.25)]
    if completions[0] == "late":
        return [Verdict(False, 0.0, VerdictStatus.TIMEOUT, detail="the judge did not answer")]
    return [{"correct": False, "score": 0.75}]
"""
    with make_pool(write_verifier(tmp_path, source)) as pool:
        made, late, mapped = verify_texts(pool, "verdict", "late", "mapping")

    assert (made.correct, made.score, made.status.value) == (True, 0.25, "ok")
    assert (late.status.value, late.detail) == ("timeout", "the judge did not answer")
    assert (mapped.correct, mapped.score, mapped.status.value) == (False, 0.75, "ok")


def test_a_pool_that_is_not_open_says_so():
    with pytest.raises(VerifierError, match="not open; use it in a with block"):
        make_pool().verify([("right", {})])


def test_countdown_is_verified_in_milliseconds_once_warm():
    columns = {"numbers": [3, 5, 7], "target": 22, "answer_format": "steps"}
    with make_pool(COUNTDOWN) as pool:
        seconds = []
        for _ in range(10):
            before = time.perf_counter()
            verdicts = pool.verify([("3*5=15,15+7=22", columns), ("3*5=15,15+7=23", columns)] * 128)
            seconds.append(time.perf_counter() - before)

    assert [v.correct for v in verdicts] == [True, False] * 128
    assert min(seconds) < 0.05


def test_metrics_count_verdicts_and_name_the_slowest():
    with make_pool(workers=1) as pool:
        verify_texts(pool, "right", "nan", "raise", "wait 0.1", "spin")
        metrics = pool.metrics()
        slowest = pool.slowest()

    assert {name: metrics[name] for name in metrics if name.startswith("verdicts")} == {
        "verdicts_ok": 2,
        "verdicts_invalid": 1,
        "verdicts_timeout": 1,
        "verdicts_error": 1,
    }
    assert metrics["verifier_workers_replaced"] == 1
    assert [sample.completion for sample in slowest[:2]] == ["spin", "wait 0.1"]
    assert slowest[0].status is VerdictStatus.TIMEOUT
    assert slowest[0].milliseconds >= 400


def test_rollouts_become_groups_of_their_own_verdicts():
    columns = {"numbers": [3, 5, 7], "target": 22, "answer_format": "steps"}
    prompts = [
        make_prompt("a", columns=columns),
        make_prompt("b", columns={**columns, "target": 8}),
    ]
    texts = ["3*5=15,15+7=22", "3+5=8"]
    rollouts = [
        make_rollout(prompt, completions=[make_completion(text=text) for text in texts])
        for prompt in prompts
    ]
    with make_pool(COUNTDOWN) as pool:
        groups = GroupVerifier(pool)(rollouts)

    assert [group.rollout for group in groups] == rollouts
    assert [[v.correct for v in group.verdicts] for group in groups] == [
        [True, False],
        [False, True],
    ]
    assert [group.correctness_rate for group in groups] == [0.5, 0.5]


def test_groups_begun_early_get_the_verdicts_that_they_would_have_got():
    rollouts = [
        make_rollout(make_prompt(name), completions=[make_completion(text=text) for text in texts])
        for name, texts in [("a", ["right", "wrong"]), ("b", ["wrong"]), ("c", ["right"])]
    ]
    with make_pool() as pool:
        verify = GroupVerifier(pool)
        for rollout in (rollouts[2], rollouts[0]):
            verify.begin(rollout)
        groups = verify(rollouts)
        metrics = pool.metrics()

    assert [group.rollout for group in groups] == rollouts
    assert [[v.correct for v in group.verdicts] for group in groups] == [
        [True, False],
        [False],
        [True],
    ]
    assert metrics["verdicts_ok"] == 4


def test_two_groups_of_one_prompt_that_were_begun_get_their_own_verdicts():
    prompt = make_prompt("a")
    rollouts = [
        make_rollout(prompt, completions=[make_completion(text=text) for text in texts])
        for texts in (["right", "wrong"], ["wrong", "wrong"])
    ]
    with make_pool() as pool:
        verify = GroupVerifier(pool)
        for rollout in reversed(rollouts):
            verify.begin(rollout)
        groups = verify(rollouts)

    assert [group.rollout for group in groups] == rollouts
    assert [group.correctness_rate for group in groups] == [0.5, 0.0]


def test_verdicts_are_made_while_the_caller_does_something_else():
    rollout = make_rollout(completions=[make_completion(text="right")])
    with make_pool() as pool:
        verify = GroupVerifier(pool)
        verify.begin(rollout)
        wait_for(lambda: pool.metrics()["verdicts_ok"] == 1)
        assert [group.correctness_rate for group in verify([rollout])] == [1.0]


def test_a_group_with_one_timeout_is_not_verified():
    texts = ["right", "spin", "wrong"]
    rollout = make_rollout(completions=[make_completion(text=text) for text in texts])
    with make_pool() as pool:
        (group,) = GroupVerifier(pool)([rollout])

    assert [v.status.value for v in group.verdicts] == ["ok", "timeout", "ok"]
    assert not group.is_verified


def test_a_verifier_that_names_prompts_is_given_them(tmp_path):
    source = """
def verify(prompts, completions, **columns):
    return [prompts == ["2+2="] or prompts == [[{"role": "user", "content": "2+2?"}]]]
"""
    chat = make_rollout(make_prompt("c"), group_size=2)
    chat = make_rollout(type(chat.prompt)("c", (ChatMessage("user", "2+2?"),), {}), group_size=2)
    plain = make_rollout(make_prompt("p", content="2+2="), group_size=2)
    other = make_rollout(make_prompt("o", content="3+3="), group_size=2)
    with make_pool(write_verifier(tmp_path, source)) as pool:
        groups = GroupVerifier(pool)([chat, plain, other])

    assert [group.correctness_rate for group in groups] == [1.0, 1.0, 0.0]


def test_golden_cases_of_countdown_hold():
    with make_pool(COUNTDOWN) as pool:
        assert check_verifier(pool) == len(pool.golden_cases) == 17


def test_a_wrong_golden_case_stops_the_run(tmp_path):
    source = """
GOLDEN = [("1", {}, True), ("2", {}, True)]
def verify(completions): return [text == "1" for text in completions]
"""
    with (
        make_pool(write_verifier(tmp_path, source)) as pool,
        pytest.raises(
            VerifierError, match=r"golden case '2' wrong \(score 0\), but GOLDEN says right"
        ),
    ):
        check_verifier(pool)


def test_a_golden_case_without_a_verdict_stops_the_run(tmp_path):
    source = """
GOLDEN = [("1", {}, False)]
def verify(completions): raise KeyError("gold")
"""
    with (
        make_pool(write_verifier(tmp_path, source)) as pool,
        pytest.raises(VerifierError, match=r"fails on its golden case '1': .*KeyError: 'gold'"),
    ):
        check_verifier(pool)


def test_prompts_whose_columns_are_missing_or_make_no_sense_are_named_with_a_reason():
    prompts = [
        make_prompt("a", columns={"numbers": [1], "target": 1, "answer_format": "steps"}),
        make_prompt("b", columns={"numbers": [1], "answer_format": "steps"}),
    ]
    prompts.append(
        make_prompt("c", columns={"numbers": [1], "target": "one", "answer_format": "steps"})
    )
    with make_pool(COUNTDOWN) as pool:
        assert column_faults(pool, prompts) == {
            "b": f"the verifier '{COUNTDOWN}' needs the column 'target', which it lacks; its "
            "columns are numbers, answer_format",
            "c": f"the verifier '{COUNTDOWN}' cannot use it (The column 'target' must be a whole "
            "number, but is 'one')",
        }
        assert pool.metrics()["verdicts_ok"] == 0  # columns are no verdicts


CHECKED = """
import time

def check_columns(answer, **columns):
    if answer == "hang":
        time.sleep(60)
    if answer == "odd":
        return "odd is not a number."
    return None if answer != "raise" else int(answer)

def verify(completions, answer):
    return [1.0 for _ in completions]
"""


def test_a_check_of_columns_that_raises_or_hangs_costs_its_row_and_no_other(tmp_path):
    prompts = [
        make_prompt(name, columns={"answer": name}) for name in ["7", "odd", "raise", "hang", "8"]
    ]
    with make_pool(write_verifier(tmp_path, CHECKED)) as pool:
        faults = column_faults(pool, prompts)
    assert list(faults) == ["odd", "raise", "hang"]
    assert "(odd is not a number)" in faults["odd"]
    assert "(ValueError: invalid literal for int() with base 10: 'raise'" in faults["raise"]
    assert "ran for more than 0.4 s" in faults["hang"]


def test_verdicts_of_the_pool_are_the_shared_record(echo):
    (verdict,) = verify_texts(echo, "1")

    assert isinstance(verdict, Verdict)
    assert verdict == Verdict(True, 1.0, VerdictStatus.OK, verdict.milliseconds, "")
    assert verdict.milliseconds > 0
