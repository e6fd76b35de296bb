"""The order of work, the blame for a broken worker, the log of latencies."""

from bapo.reward.latency import LatencyLog
from bapo.reward.work import WorkQueue
from bapo.types import Verdict, VerdictStatus

RIGHT = Verdict(True, 1.0, milliseconds=1.0)
BROKEN = Verdict(False, 0.0, VerdictStatus.ERROR, 1.0, "broken")


def make_queue(*texts):
    queue = WorkQueue(LatencyLog())
    return queue, queue.submit([(text, {}) for text in texts])


def drain(queue, workers=1):
    chunks = []
    while queue.has_pending:
        chunks.append([item.completion for item in queue.next_chunk(workers)])
    return chunks


def test_chunks_are_in_order_and_shrink_towards_the_end():
    queue, _ = make_queue(*map(str, range(16)))
    chunks = drain(queue)

    assert [text for chunk in chunks for text in chunk] == [str(i) for i in range(16)]
    assert [len(chunk) for chunk in chunks] == [8, 4, 2, 1, 1]


def test_slow_items_are_handed_out_singly_and_fast_ones_in_crowds():
    slow, ticket = make_queue(*["x"] * 200)
    fast, _ = make_queue(*["x"] * 1000)
    for queue, milliseconds in ((slow, 1000.0), (fast, 0.01)):
        for _ in range(100):
            (item,) = queue.next_chunk(100)[:1]
            queue.answer(item, Verdict(True, 1.0, milliseconds=milliseconds))

    assert len(slow.next_chunk(1)) == 1
    assert len(fast.next_chunk(1)) == 64
    assert ticket.missing == 100


def test_what_was_not_run_is_run_next_in_its_order():
    queue, _ = make_queue(*"abcdefgh")
    chunk = queue.next_chunk(1)
    queue.put_back(chunk[1:])

    assert [text for part in drain(queue) for text in part] == list("bcdefgh")


def test_breaking_a_fresh_worker_settles_the_item():
    queue, ticket = make_queue("a")
    (item,) = queue.next_chunk(1)
    queue.blame(item, BROKEN, worker_was_fresh=True)

    assert ticket.verdicts == [BROKEN]
    assert not queue.has_doubtful


def test_breaking_a_used_worker_gives_the_item_one_more_chance():
    queue, ticket = make_queue("a")
    (item,) = queue.next_chunk(1)
    queue.blame(item, BROKEN, worker_was_fresh=False)
    assert (queue.has_pending, queue.has_doubtful, ticket.missing) == (False, True, 1)

    (again,) = queue.next_doubtful()
    queue.blame(again, BROKEN, worker_was_fresh=False)
    assert (queue.has_doubtful, ticket.verdicts) == (False, [BROKEN])


def test_a_verdict_goes_to_its_place():
    queue, ticket = make_queue("a", "b")
    first, second = queue.next_chunk(1) + queue.next_chunk(1)
    queue.answer(second, RIGHT)

    assert ticket.verdicts == [None, RIGHT]
    queue.answer(first, BROKEN)
    assert (ticket.verdicts, ticket.missing) == ([BROKEN, RIGHT], 0)


def test_percentiles_are_right_to_three_percent():
    log = LatencyLog()
    for milliseconds in range(1, 1001):
        log.add(Verdict(True, 1.0, milliseconds=float(milliseconds)), "")

    for share, exact in ((0.5, 500), (0.95, 950), (0.99, 990), (1.0, 1000)):
        assert abs(log.percentile(share) / exact - 1) < 0.03


def test_no_verdicts_have_no_percentiles():
    assert LatencyLog().percentile(0.5) is None
    assert LatencyLog().metrics()["verifier_milliseconds_p99"] is None


def test_the_slowest_samples_are_kept_with_an_excerpt():
    log = LatencyLog(slowest=2)
    for milliseconds in (3.0, 9.0, 1.0, 7.0, 2.0):
        log.add(Verdict(True, 1.0, milliseconds=milliseconds), f"{milliseconds:g}" * 300)

    assert [(sample.milliseconds, sample.completion) for sample in log.slowest()] == [
        (9.0, "9" * 200),
        (7.0, "7" * 200),
    ]
