"""What twelve steps of BAPO must do, worked out by hand from the algorithm's text.

G = 4, B = 4, v = 2, m = 3, c1 = 1/4, reuse window 2, half-life 1, at most 2 failed retries. Rates
are written in quarters: `c2` is prompt c with two right answers of four. The band is
[r / 2, 1/4 + r / 2], so that below r = 1/2 only groups with 1/4 can be reused, above it only those
with 2/4, and both at 1/2; groups with 3/4 never, since r stays below 1. With a half-life of one
step, r is the mean of its old value and the step's.
"""

from dataclasses import dataclass

ADAPTATION = {
    "behavior_sync_every": 2,
    "retry_every": 3,
    "hard_threshold": 0.25,
    "max_retries": 2,
    "reuse_window": 2,
    "reuse_low_range": [0.0, 0.5],
    "reuse_high_range": [0.25, 0.75],
    "band_half_life": 1.0,
}


@dataclass(frozen=True)
class Step:
    """What goes into one step and what must come out of it.

    Attributes:
        fresh: Drawn prompts with their right answers of four, or a pattern.
        behavior: The version that samples them.
        retried: The hard prompts asked again, head of the buffer first, likewise.
        batch: Prompt and version that sampled its group, in order: fresh / retried / reused.
        fates: Of the sampled groups, fresh before retried.
        hard: Events in the hard buffer, in order.
        hard_after: The hard buffer after the step, from head to tail.
        reuse: Events in the reuse buffer: prompts expired / entered.
        reuse_size: Groups in the reuse buffer after the step.
        strength: r after the step; it decides the next one.
    """

    fresh: str
    behavior: int
    retried: str
    batch: str
    fates: str
    hard: str
    hard_after: str
    reuse: str
    reuse_size: int
    strength: float


TABLE = [
    # 1: r is unknown, counts as 0. a and d teach nothing. a and b (mu <= c1) are hard; b and c are
    #    mixed and can be reused from now on. r = (0 + 1 + 2 + 4) / 16 = 7/16, the first value.
    Step(
        fresh="a0 b1 c2 d4",
        behavior=0,
        retried="",
        batch="b@0 c@0 / /",
        fates="a:all_wrong b:trained c:trained d:all_right",
        hard="entered:a0 entered:b1",
        hard_after="a b",
        reuse="/ b1 c2",
        reuse_size=2,
        strength=7 / 16,
    ),
    # 2: still the weights of step 1, so everything is one step stale. Band [7/32, 15/32]: of b1 and
    #    c2 only b1 lies in it. Hard has room for four: h evicts a.
    #    r = (7/16 + 2/16) / 2 = 9/32.
    Step(
        fresh="e0 f0 g2 h0",
        behavior=0,
        retried="",
        batch="g@0 / / b@0",
        fates="e:all_wrong f:all_wrong g:trained h:all_wrong",
        hard="entered:e0 entered:f0 entered:h0 evicted:a0",
        hard_after="b e f h",
        reuse="/ g2",
        reuse_size=3,
        strength=9 / 32,
    ),
    # 3: sync and retry. e is drawn and hard at once: its fresh group is taken, its retried one is a
    #    duplicate, and it leaves. b is promoted; its old group b1 lies in the band [9/64, 25/64],
    #    but b stands in the batch already. h is all right: solved, nothing to learn. f fails for
    #    the first time. k has a verdict that is not ok: it takes no part, and r sees three groups.
    #    r = (9/32 + 6/12) / 2 = 25/64.
    Step(
        fresh="i0 j3 e3 k1e10",
        behavior=2,
        retried="b3 e3 f0 h4",
        batch="j@2 e@2 / b@2 /",
        fates="i:all_wrong j:trained e:trained k:unverified "
        "b:trained e:duplicate f:all_wrong h:all_right",
        hard="left:e3 left:b3 left:h4 failed:f0 entered:i0",
        hard_after="f i",
        reuse="b1 c2 / j3 e3",
        reuse_size=3,
        strength=25 / 64,
    ),
    # 4: band [25/128, 57/128], but the buffer holds g2, j3 and e3 only: a short batch.
    #    r = (25/64 + 10/16) / 2 = 65/128.
    Step(
        fresh="l1 m1 n4 o4",
        behavior=2,
        retried="",
        batch="l@2 m@2 / /",
        fates="l:trained m:trained n:all_right o:all_right",
        hard="entered:l1 entered:m1",
        hard_after="f i l m",
        reuse="g2 / l1 m1",
        reuse_size=4,
        strength=65 / 128,
    ),
    # 5: the policy grew stronger than 1/2 and the band rose to [65/256, 129/256]: l1 and m1 lie
    #    below it by 1/256. Nothing fresh teaches, so there is no batch and no update. i is wrong
    #    again and moves to the tail. r = (65/128 + 12/16) / 2 = 161/256.
    Step(
        fresh="i0 q4 r4 s4",
        behavior=4,
        retried="",
        batch="/ /",
        fates="i:all_wrong q:all_right r:all_right s:all_right",
        hard="moved:i0",
        hard_after="f l m i",
        reuse="j3 e3 /",
        reuse_size=2,
        strength=161 / 256,
    ),
    # 6: fresh groups from the weights of step 5, retried ones from today's. f fails for the second
    #    time and never had a right answer: retired. l has 1/4, which is not above c1; it failed,
    #    but it had a right answer and is not counted. m is promoted. i is not verified: its place
    #    and its count stay. r = (161/256 + 5/16) / 2 = 241/512.
    Step(
        fresh="t2 u2 c1 v0",
        behavior=4,
        retried="f0 l1 m2 i0t00",
        batch="t@4 u@4 c@4 / m@5 /",
        fates="t:trained u:trained c:trained v:all_wrong "
        "f:all_wrong l:not_accepted m:trained i:unverified",
        hard="left:m2 failed:f0 retired:f0 failed:l1 entered:c1 entered:v0",
        hard_after="l i c v",
        reuse="l1 m1 / t2 u2 c1",
        reuse_size=3,
        strength=241 / 512,
    ),
    # 7: f is wrong again, but retired prompts are not taken in. c shows 2/4 and leaves by a fresh
    #    group alone. Band [241/1024, 497/1024]: c1 of step 6 is in it, but c is in the batch.
    #    r = (241/512 + 9/16) / 2 = 529/1024.
    Step(
        fresh="f0 x3 h4 c2",
        behavior=6,
        retried="",
        batch="x@6 c@6 / /",
        fates="f:all_wrong x:trained h:all_right c:trained",
        hard="left:c2",
        hard_after="l i v",
        reuse="/ x3 c2",
        reuse_size=5,
        strength=529 / 1024,
    ),
    # 8: band [529/2048, 1041/2048]: t2, u2 and the newer c2 are in it, c1 is not. Two groups are
    #    missing: which two of the three is random. y0 evicts nobody, but z1 does: l, whose last
    #    rate is that of its retry. r = (529/1024 + 8/16) / 2 = 1041/2048.
    Step(
        fresh="y0 w3 z1 q4",
        behavior=6,
        retried="",
        batch="w@6 z@6 / / two of t@4 u@4 c@6",
        fates="y:all_wrong w:trained z:trained q:all_right",
        hard="entered:y0 entered:z1 evicted:l1",
        hard_after="i v y z",
        reuse="t2 u2 c1 / w3 z1",
        reuse_size=4,
        strength=1041 / 2048,
    ),
    # 9: sync and retry: both policies are today's. Three fresh groups leave room for one: v. y and
    #    z are surplus; they leave the hard buffer all the same. i fails: its first counted one.
    #    Band [1041/4096, 2065/4096] plays no part. r = (1041/2048 + 6/16) / 2 = 1809/4096.
    Step(
        fresh="p1 l0 o2 n3",
        behavior=8,
        retried="i0 v2 y3 z2",
        batch="p@8 o@8 n@8 / v@8 /",
        fates="p:trained l:all_wrong o:trained n:trained i:all_wrong v:trained y:surplus z:surplus",
        hard="left:v2 left:y3 left:z2 failed:i0 entered:p1 entered:l0",
        hard_after="i p l",
        reuse="x3 c2 / p1 o2 n3",
        reuse_size=5,
        strength=1809 / 4096,
    ),
    # 10: band [1809/8192, 3857/8192]: z1 of step 8 and p1 of step 9, and there is room for both.
    #     z was sampled by the weights of step 7, three steps ago.
    #     r = (1809/4096 + 14/16) / 2 = 5393/8192.
    Step(
        fresh="b4 c2 r4 e4",
        behavior=8,
        retried="",
        batch="c@8 / / z@6 p@8",
        fates="b:all_right c:trained r:all_right e:all_right",
        hard="",
        hard_after="i p l",
        reuse="w3 z1 / c2",
        reuse_size=4,
        strength=5393 / 8192,
    ),
    # 11: f, retired, has a right answer: it is a suspect no more, and hard again with 1/4. p is
    #     solved afresh and leaves. Band [5393/16384, 9489/16384]: o2 and c2.
    #     r = (5393/8192 + 9/16) / 2 = 10001/16384.
    Step(
        fresh="f1 g4 p4 j0",
        behavior=10,
        retried="",
        batch="f@10 / / o@8 c@8",
        fates="f:trained g:all_right p:all_right j:all_wrong",
        hard="reinstated:f1 left:p4 entered:f1 entered:j0",
        hard_after="i l f j",
        reuse="p1 o2 n3 / f1",
        reuse_size=2,
        strength=10001 / 16384,
    ),
    # 12: j, drawn and hard at once: all wrong under the weights of step 11, right three times under
    #     today's, so it leaves and is not put back. i fails for the second counted time and is
    #     retired. Fresh, retried and reused groups, sampled by three versions, fill the batch; band
    #     [10001/32768, 18193/32768]. r = (10001/16384 + 6/16) / 2 = 16145/32768.
    Step(
        fresh="k0 s2 q4 j0",
        behavior=10,
        retried="i0 l4 f2 j3",
        batch="s@10 / f@11 j@11 / c@8",
        fates="k:all_wrong s:trained q:all_right j:all_wrong "
        "i:all_wrong l:all_right f:trained j:trained",
        hard="left:l4 left:f2 left:j3 failed:i0 retired:i0 entered:k0",
        hard_after="k",
        reuse="c2 / s2",
        reuse_size=2,
        strength=16145 / 32768,
    ),
]

# Counts of each step, by hand: 4 completions of 2 tokens a group; of the fresh groups all wrong,
# all right and unverified; surplus; evicted by this step; retired so far; mean rate of the verified
# fresh and retried groups, in sixteenths or less; mean staleness of the batch.
COUNTS = """
step rollouts wrong right unverified surplus evicted retired fresh   retried staleness
1    16       1     1     0          0       0       0       7/16    -       0
2    16       3     0     0          0       1       0       2/16    -       1
3    32       1     0     1          0       0       0       6/12    10/16   0
4    16       0     2     0          0       0       0       10/16   -       1
5    16       1     3     0          0       0       0       12/16   -       -
6    32       1     0     0          0       0       1       5/16    3/12    3/4
7    16       1     1     0          0       0       1       9/16    -       0
8    16       1     1     0          0       1       1       8/16    -       *
9    32       1     0     0          2       0       1       6/16    7/16    0
10   16       0     3     0          0       0       1       14/16   -       5/3
11   16       1     2     0          0       0       0       9/16    -       4/3
12   32       2     1     0          0       0       1       6/16    9/16    4/4
"""
