"""The real loop around a table policy under other presets and rules; each outcome by hand."""

import pytest

from bapo.adaptation import GroupOutcome
from bapo.errors import RunStoppedError, StaleEngineError
from tests.table_policy import pattern, table_loop, table_recipe


def make_loop(answers, draws, *, batch_groups=2, **recipe):
    """Answers as `a0@2`: right answers of four (or a pattern), and the version that gives them."""
    table = {}
    for item in answers.split():
        letters, version = item[1:].split("@")
        table[item[0], int(version)] = pattern(letters)
    training = {"batch_groups": batch_groups, "updates_per_step": 1}
    resolved = table_recipe(steps=9, training=training, **recipe)
    return table_loop(resolved, table, draws.split())


def batch_of(record):
    return [
        f"{entry.source.value} {entry.group.prompt_id}@{entry.group.rollout.policy_version}"
        for entry in record.composition.batch.entries
    ]


def fates_of(record):
    return {f"{fate.source} {fate.prompt_id}": fate.outcome for fate in record.composition.fates}


def events_of(record):
    return [f"{event.event} {event.prompt_id}" for event in record.events]


RETRIES = {"behavior_sync_every": 1, "retry_every": 2, "hard_threshold": 0.25, "reuse": False}


@pytest.mark.parametrize(
    ("rule", "taken", "refused"), [("above_c1", "c", "ab"), ("improved", "ac", "b")]
)
def test_what_a_retried_group_must_show_to_be_accepted(rule, taken, refused):
    """a rises from 0 to 1/4, b stays at 1/4 = c1, c rises above it; only c leaves under both."""
    loop = make_loop(
        "a0@0 b1@0 c0@0 a1@1 b1@1 c2@1 x0@1 y0@1 z0@1",
        "a b c x y z",
        batch_groups=3,
        adaptation=RETRIES | {"retry_accept": rule, "hard_capacity": 9},
    )
    assert batch_of(loop.advance()) == ["fresh b@0"]
    record = loop.advance()
    assert batch_of(record) == [f"retried {name}@1" for name in taken]
    fates = fates_of(record)
    assert all(fates[f"retried {name}"] is GroupOutcome.NOT_ACCEPTED for name in refused)
    assert events_of(record)[:3] == ["hard_left c", "retry_failed a", "retry_failed b"]
    assert [prompt.prompt_id for prompt in loop.adaptation.prompts_to_retry(4)] == list("abxyz")


def test_the_improved_rule_compares_with_the_last_rate_and_not_with_the_first():
    """a: 0, then 1/4 (better, taken), then 1/4 again (no better, refused)."""
    loop = make_loop(
        "a0@0 b4@0 c4@1 d4@1 e4@2 f4@2 g4@3 h4@3 a1@1 a1@3",
        "a b c d e f g h",
        adaptation=RETRIES | {"retry_accept": "improved"},
    )
    records = [loop.advance() for _ in range(4)]
    assert [batch_of(record) for record in records] == [[], ["retried a@1"], [], []]
    assert fates_of(records[3])["retried a"] is GroupOutcome.NOT_ACCEPTED


def test_dapo_draws_until_the_batch_is_full():
    """Step 1 draws a b, then c d, and has a and c; step 2 needs one round, since f and g teach."""
    loop = make_loop("a1@0 b0@0 c2@0 d4@0 f2@1 g3@1", "a b c d f g", algorithm="dapo")
    first, second = loop.advance(), loop.advance()
    assert batch_of(first) == ["fresh a@0", "fresh c@0"]
    assert batch_of(second) == ["fresh f@1", "fresh g@1"]
    assert loop.stream.drawn == [("a", "b"), ("c", "d"), ("f", "g")]
    assert loop.stream.begun == 2
    assert first.metrics["groups_sampled_fresh"] == 4
    assert first.metrics["rollouts"] == 16
    assert first.metrics["correctness_fresh"] == pytest.approx(7 / 16)
    assert second.metrics["rollouts"] == 8
    assert [first.events, second.events] == [(), ()]


def test_what_dapo_draws_too_much_is_surplus():
    loop = make_loop("a1@0 b0@0 c2@0 d2@0", "a b c d", algorithm="dapo")
    record = loop.advance()
    assert batch_of(record) == ["fresh a@0", "fresh c@0"]
    assert fates_of(record)["fresh d"] is GroupOutcome.SURPLUS


@pytest.mark.parametrize("rounds", [0, 1, 3])
def test_dapo_never_draws_more_than_its_rounds_and_trains_on_what_it_has(rounds):
    names = "abcdefghij"
    loop = make_loop(
        "a1@0 " + " ".join(f"{name}0@0" for name in names[1:]),
        " ".join(names),
        algorithm="dapo",
        adaptation={"max_resample_rounds": rounds},
    )
    record = loop.advance()
    assert len(loop.stream.drawn) == 1 + rounds
    assert record.metrics["groups_sampled_fresh"] == 2 * (1 + rounds)
    assert batch_of(record) == ["fresh a@0"]


def test_dapo_stops_drawing_when_there_are_no_more_prompts():
    loop = make_loop("a0@0 b0@0 c0@0", "a b c", algorithm="dapo")
    record = loop.advance()
    assert loop.stream.drawn == [("a", "b"), ("c",), ()]
    assert [len(call.prompt_ids) for call in loop.engine.asked] == [2, 1]
    assert batch_of(record) == []
    assert record.metrics["updates"] == 0


def test_grpo_trains_on_every_verified_group_and_keeps_nothing():
    loop = make_loop("a0@0 b4@0 c2@1 d1e11@1", "a b c d", algorithm="grpo")
    first, second = loop.advance(), loop.advance()
    assert batch_of(first) == ["fresh a@0", "fresh b@0"]
    assert batch_of(second) == ["fresh c@1"]
    assert fates_of(second)["fresh d"] is GroupOutcome.UNVERIFIED
    assert [first.events, second.events] == [(), ()]
    assert [r.metrics["staleness_mean"] for r in (first, second)] == [0, 0]
    assert (first.metrics["groups_all_wrong"], first.metrics["groups_all_right"]) == (1, 1)
    assert second.metrics["hard_buffer_size"] == second.metrics["reuse_buffer_size"] == 0


def test_delayed_grpo_samples_from_weights_copied_every_five_steps():
    draws = "abcdefghijkl"
    versions = [0, 0, 0, 0, 0, 5]
    answers = " ".join(f"{name}2@{versions[place // 2]}" for place, name in enumerate(draws))
    loop = make_loop(answers, " ".join(draws), algorithm="grpo_delayed")
    records = [loop.advance() for _ in range(6)]
    assert [record.metrics["staleness_mean"] for record in records] == [0, 1, 2, 3, 4, 0]
    assert [call.version for call in loop.engine.asked] == versions


def test_the_filtered_preset_drops_what_does_not_teach_and_keeps_no_buffers():
    loop = make_loop("a0@0 b1@0 c4@0 d2@0", "a b c d", algorithm="filtered")
    first, second = loop.advance(), loop.advance()
    assert (batch_of(first), batch_of(second)) == (["fresh b@0"], ["fresh d@0"])
    assert [first.events, second.events] == [(), ()]
    assert all(len(call.prompt_ids) == 2 for call in loop.engine.asked)


@pytest.mark.parametrize(
    ("algorithm", "events"),
    [
        ("bapo", ["hard_entered a", "reuse_entered b"]),
        ("bapo_no_retry", ["reuse_entered b"]),
        ("bapo_no_reuse", ["hard_entered a"]),
    ],
)
def test_each_buffer_can_be_switched_off(algorithm, events):
    loop = make_loop("a0@0 b1@0", "a b", algorithm=algorithm)
    assert events_of(loop.advance()) == events


def test_reuse_retried_lets_retried_groups_be_reused():
    """a is hard at step 1 and 1/4 at step 2, below c1 + 1/4; from step 3 on it can be reused."""
    reuse = {"reuse": True, "reuse_retried": True, "hard_threshold": 0.0}
    loop = make_loop(
        "a0@0 b4@0 c4@1 d4@1 a1@1 e4@2 f4@2",
        "a b c d e f",
        adaptation=RETRIES | reuse | {"band": "fixed", "reuse_fixed": [0.0, 0.5]},
    )
    records = [loop.advance() for _ in range(3)]
    assert [batch_of(record) for record in records] == [[], ["retried a@1"], ["reused a@1"]]
    assert records[2].metrics["staleness_mean"] == 1


def calls_of(loop):
    return ["".join(call.prompt_ids) + f"@{call.version}" for call in loop.engine.asked]


def test_hard_prompts_are_asked_with_the_first_fresh_ones_and_not_with_further_rounds():
    """a is hard after step 1; step 2 draws it and asks it again, with other random numbers."""
    loop = make_loop(
        "a0@0 b4@0 c2@0 d2@0 a3@1 e4@1 f2@1 g2@1",
        "a b c d a e f g",
        adaptation=RETRIES | {"max_resample_rounds": 1},
    )
    records = [loop.advance() for _ in range(2)]
    assert calls_of(loop) == ["ab@0", "cd@0", "aea@1", "fg@1"]
    fresh, again, retried = loop.engine.asked[2].seeds
    assert fresh == again != retried
    assert loop.engine.asked[3].seeds == (fresh, fresh)
    assert fates_of(records[1])["fresh a"] is GroupOutcome.TRAINED
    assert fates_of(records[1])["retried a"] is GroupOutcome.DUPLICATE
    assert records[1].metrics["groups_sampled_fresh"] == 4
    assert records[1].metrics["groups_sampled_retried"] == 1


def test_hard_prompts_are_asked_by_themselves_where_refilling_is_off():
    loops = [
        make_loop(
            "a0@0 b4@0 a3@1 e4@1",
            "a b a e",
            adaptation=RETRIES,
            rollout={"group_size": 4, "refill": refill},
        )
        for refill in (True, False)
    ]
    joint, apart = ([fates_of(loop.advance()) for _ in range(2)] for loop in loops)
    assert joint == apart
    assert [calls_of(loop) for loop in loops] == [["ab@0", "aea@1"], ["ab@0", "ae@1", "a@1"]]


def test_a_sync_brought_forward_lets_hard_prompts_share_the_call_of_that_step():
    """v = 5, but step 1 asks for a sync; at the retries of step 4 the weights are apart again."""
    loop = make_loop(
        "a0@0 b4@0 a0@1 c4@1 d4@1 e4@1 f4@1 g4@1 h4@1 a0@3",
        "a b c d e f g h",
        adaptation=RETRIES | {"behavior_sync_every": 5},
    )
    update = loop.learner.update

    def update_held_by_age(batch, **options):
        report = update(batch, **options)
        report.is_held_by_age = batch.step == 1
        return report

    loop.learner.update = update_held_by_age
    for _ in range(4):
        loop.advance()
    assert calls_of(loop) == ["ab@0", "cda@1", "ef@1", "gh@1", "a@3"]


def test_the_run_stops_when_too_many_verdicts_are_not_ok_and_nothing_is_learned():
    """With a limit of one half one of two groups may be lost, however many of its verdicts are
    bad; both may not, even by one verdict each."""
    loop = make_loop("aeeee@0 b1100@0 c110e@1 d11t0@1", "a b c d", algorithm="grpo")
    loop.advance()
    told = r"step 2: 2 of 8 verdicts .* costs 2 of 2 groups.* error: made by a test"
    with pytest.raises(RunStoppedError, match=told):
        loop.advance()
    assert loop.step == 2  # the step that stops the run is counted, with a batch of nothing
    assert [len(batch.entries) for batch in loop.learner.batches] == [1, 0]


def test_the_run_stops_after_five_nonfinite_steps_in_a_row_and_not_before():
    """Four bad steps, a good one, five bad ones."""
    names = "abcdefghijklmnopqrst"
    answers = " ".join(f"{name}2@{place // 2}" for place, name in enumerate(names))
    loop = make_loop(answers, " ".join(names), algorithm="grpo")
    nonfinite = [1, 1, 1, 1, 0, 1, 1, 2, 1]
    bad, update = iter([*nonfinite, 1]), loop.learner.update

    def update_badly(batch, **options):
        report = update(batch, **options)
        report.nonfinite = next(bad)
        return report

    loop.learner.update = update_badly
    skipped = [loop.advance().metrics["updates_skipped"] for _ in nonfinite]
    assert skipped == nonfinite
    with pytest.raises(RunStoppedError, match=r"step 10: .* not finite in 5 steps in a row"):
        loop.advance()


def test_updates_without_a_token_are_counted_and_stop_nothing():
    """Nor do they end a row of steps that were not finite: they say nothing either way."""
    names = "abcdefghijklmnop"
    answers = " ".join(f"{name}2@{place // 2}" for place, name in enumerate(names))
    loop = make_loop(answers, " ".join(names), algorithm="grpo")
    update = loop.learner.update

    def learn_nothing(batch, **options):
        report = update(batch, **options)
        report.updates, report.nonfinite, report.empty = 0, int(batch.step == 1), 2
        return report

    loop.learner.update = learn_nothing
    skipped = [loop.advance().metrics["updates_skipped"] for _ in range(7)]
    assert skipped == [3, 2, 2, 2, 2, 2, 2]
    assert loop.state_dict()["nonfinite_in_a_row"] == 1


def test_an_engine_left_with_old_weights_is_noticed_before_it_samples():
    """The weights change behind the engine's back, as a lost sync would have it."""
    loop = make_loop("a2@0 b2@0", "a b c d", algorithm="grpo")
    loop.advance()
    publish = loop.engine.publish
    old = {name: tensor.clone() for name, tensor in loop.learner.weights.items()}
    old["count"].fill_(0.0)
    loop.engine.publish = lambda version, weights, share=False: publish(version, old)
    with pytest.raises(StaleEngineError, match=r"policy version 1 differ .* by up to 1,"):
        loop.advance()
    assert len(loop.engine.asked) == 1
