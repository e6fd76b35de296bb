"""What holds for adaptation in every run, over random scripts of steps."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bapo.adaptation import BufferEventKind as Kind
from bapo.adaptation import GroupOutcome as Outcome
from bapo.adaptation import reuse_band
from bapo.adaptation.sizes import prompt_bytes
from bapo.types import Source
from tests.builders import make_prompt, through_disk
from tests.property.scripts import adaptation_settings, play, play_step, scripts

many = settings(max_examples=80, deadline=None)
SOURCE_ORDER = [Source.FRESH, Source.RETRIED, Source.REUSED]


def canonical(tree):
    """A tree in which arrays are compared by type and bytes."""
    if isinstance(tree, dict):
        return {key: canonical(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [canonical(value) for value in tree]
    if isinstance(tree, np.ndarray):
        return str(tree.dtype), tree.shape, tree.tobytes()
    assert tree is None or isinstance(tree, (str, int, float, bool)), repr(tree)
    return tree


def tag(group):
    """What tells one group of a script from another."""
    verdicts = [(verdict.correct, verdict.status.value) for verdict in group.verdicts]
    return group.prompt_id, group.rollout.step, group.rollout.policy_version, verdicts


def summary(played):
    entries = [(tag(entry.group), entry.source) for entry in played.composition.batch.entries]
    return entries, played.composition.fates, played.composition.band, played.events


@many
@given(scripts())
def test_a_batch_has_at_most_b_groups_of_distinct_prompts_in_source_order(script):
    for played in play(script.adaptation(), script):
        entries = played.composition.batch.entries
        prompt_ids = [entry.group.prompt_id for entry in entries]
        ranks = [SOURCE_ORDER.index(entry.source) for entry in entries]
        assert len(entries) <= script.batch_groups
        assert len(set(prompt_ids)) == len(prompt_ids)
        assert ranks == sorted(ranks)
        assert all(entry.group.is_verified for entry in entries)


@many
@given(scripts())
def test_every_source_gives_only_what_its_rule_allows(script):
    observed = {}  # by identity: the step, and the group itself so that it stays alive
    rules = script.settings
    for played in play(script.adaptation(), script):
        for entry in played.composition.batch.entries:
            rate = entry.group.correctness_rate
            if entry.source is Source.FRESH:
                assert any(entry.group is group for group in played.fresh)
                assert 0 < rate < 1 or not rules.filter_fresh
            elif entry.source is Source.RETRIED:
                assert any(entry.group is group for group in played.retried)
                assert played.step % rules.retry_every == 0
                assert 0 < rate < 1
                assert rate > rules.hard_threshold or rules.retry_accept == "improved"
            else:
                band = played.composition.band.widened(entry.group.size)
                assert 0 < rate < 1
                assert band.low - 1e-9 <= rate <= band.high + 1e-9
                step, group = observed[id(entry.group)]
                assert group is entry.group
                assert 1 <= played.step - step <= rules.reuse_window
        kept = [*played.fresh, *played.retried] if rules.reuse_retried else played.fresh
        observed |= {id(group): (played.step, group) for group in kept}


@many
@given(scripts())
def test_the_fates_account_for_every_group_exactly_once(script):
    for played in play(script.adaptation(), script):
        fates, entries = played.composition.fates, played.composition.batch.entries
        offered = [*played.fresh, *played.retried]
        told = fates[: len(offered)]
        assert [fate.prompt_id for fate in told] == [group.prompt_id for group in offered]
        assert [fate.policy_version for fate in told] == [
            group.rollout.policy_version for group in offered
        ]
        sources = [Source.FRESH] * len(played.fresh) + [Source.RETRIED] * len(played.retried)
        assert [fate.source for fate in told] == sources
        trained = [fate for fate in fates if fate.outcome is Outcome.TRAINED]
        assert [(fate.prompt_id, fate.source) for fate in trained] == [
            (entry.group.prompt_id, entry.source) for entry in entries
        ]
        for fate, group in zip(told, offered, strict=True):
            expected = group.correctness_rate if group.is_verified else None
            assert fate.correctness_rate == expected
            assert (fate.outcome is Outcome.UNVERIFIED) is (expected is None)
        for fate in fates[len(offered) :]:
            assert fate.source is Source.REUSED
            assert fate.outcome in (Outcome.TRAINED, Outcome.BATCH_SKIPPED)


@many
@given(scripts())
def test_a_batch_is_short_only_where_nothing_more_was_to_be_had(script):
    adaptation = script.adaptation()
    window = {}  # step -> groups that entered the reuse buffer
    for played in play(adaptation, script):
        composition = played.composition
        outcomes = [fate.outcome for fate in composition.fates]
        taken = outcomes.count(Outcome.TRAINED) + outcomes.count(Outcome.BATCH_SKIPPED)
        skips = script.settings.when_short == "skip"
        if taken < script.batch_groups:
            assert Outcome.SURPLUS not in outcomes
            assert not (skips and composition.batch.entries)
            used = {
                fate.prompt_id
                for fate in composition.fates
                if fate.outcome in (Outcome.TRAINED, Outcome.BATCH_SKIPPED)
            }
            left_over = {
                group.prompt_id
                for step, groups in window.items()
                if step >= played.step - script.settings.reuse_window
                for group in groups
                if composition.band.widened(group.size).contains(group.correctness_rate)
            } - used
            assert not left_over
        else:
            assert Outcome.BATCH_SKIPPED not in outcomes
            assert len(composition.batch.entries) == script.batch_groups
        if script.settings.reuse:
            kept = [*played.fresh, *(played.retried if script.settings.reuse_retried else ())]
            window[played.step] = [
                group for group in kept if group.is_verified and 0 < group.correctness_rate < 1
            ]
        in_window = [
            group
            for step, groups in window.items()
            if step > played.step - script.settings.reuse_window
            for group in groups
        ]
        assert adaptation.metrics()["reuse_buffer_size"] == len(in_window)


class HardBufferModel:
    """The hard buffer's rules once more, in the plainest form: a list and three dicts."""

    def __init__(self, script):
        self.rules = script.settings
        self.capacity = script.settings.hard_capacity or script.batch_groups
        self.max_bytes = script.settings.max_buffer_megabytes * 1e6
        self.queue, self.failures = [], {}
        self.ever_right, self.retired = set(), set()

    def observe(self, fresh, retried):
        fresh = [(g.prompt_id, g.correctness_rate) for g in fresh if g.is_verified]
        retried = [(g.prompt_id, g.correctness_rate) for g in retried if g.is_verified]
        right = {prompt_id for prompt_id, rate in fresh + retried if rate > 0}
        solvable = {p for p, rate in fresh + retried if rate > self.rules.hard_threshold}
        self.ever_right |= right
        self.retired -= right
        self.queue = [prompt_id for prompt_id in self.queue if prompt_id not in solvable]
        for prompt_id in solvable:
            self.failures[prompt_id] = 0
        for prompt_id, _ in retried:
            if prompt_id not in solvable:
                self.failures[prompt_id] = self.failures.get(prompt_id, 0) + 1
                spent = self.failures[prompt_id] >= self.rules.max_retries
                if spent and prompt_id not in self.ever_right:
                    self.queue.remove(prompt_id)
                    self.retired.add(prompt_id)
                    self.failures[prompt_id] = 0
        for prompt_id, _ in fresh:
            if prompt_id not in solvable | self.retired:
                if prompt_id in self.queue:
                    self.queue.remove(prompt_id)
                self.queue.append(prompt_id)
                while len(self.queue) > self.capacity or self.bytes > self.max_bytes:
                    del self.queue[0]

    @property
    def bytes(self):
        return sum(prompt_bytes(make_prompt(prompt_id)) for prompt_id in self.queue)


@many
@given(scripts(), st.sampled_from([0.0005, 0.0012, 0.0024, 0.0036, 1.0]))
def test_the_hard_buffer_behaves_as_its_plain_model(script, megabytes):
    limit = replace(script.settings, max_buffer_megabytes=megabytes)
    script = replace(script, settings=limit)
    adaptation, model = script.adaptation(), HardBufferModel(script)
    for played in play(adaptation, script):
        if not script.settings.retry:
            assert not played.hard_before
            assert adaptation.metrics()["hard_buffer_size"] == 0
            continue
        if played.step % script.settings.retry_every == 0:
            assert [prompt.prompt_id for prompt in played.hard_before] == model.queue
        else:
            assert not played.hard_before
        model.observe(played.fresh, played.retried)
        every = script.settings.retry_every
        hard = [prompt.prompt_id for prompt in adaptation.prompts_to_retry(every)]
        assert hard == model.queue
        assert adaptation.metrics()["hard_buffer_size"] == len(hard) <= model.capacity
        assert {suspect.prompt_id for suspect in adaptation.suspects} == model.retired
        assert not model.retired & (set(hard) | model.ever_right)


@many
@given(scripts())
def test_the_events_add_up_to_the_buffers(script):
    adaptation = script.adaptation()
    hard, reuse = set(), 0
    for played in play(adaptation, script):
        for event in played.events:
            assert event.step == played.step
            if event.event is Kind.HARD_ENTERED:
                assert event.prompt_id not in hard
                hard.add(event.prompt_id)
            elif event.event in (Kind.HARD_LEFT, Kind.HARD_EVICTED, Kind.HARD_RETIRED):
                hard.remove(event.prompt_id)
            elif event.event in (Kind.HARD_MOVED, Kind.RETRY_FAILED):
                assert event.prompt_id in hard
            elif event.event is Kind.REUSE_ENTERED:
                reuse += 1
            elif event.event is Kind.REUSE_EXPIRED:
                reuse -= 1
        assert adaptation.metrics()["hard_buffer_size"] == len(hard)
        assert adaptation.metrics()["reuse_buffer_size"] == reuse


@many
@given(scripts())
def test_the_strength_is_the_running_mean_of_verified_fresh_rates(script):
    adaptation = script.adaptation()
    keep, expected = 0.5 ** (1 / script.settings.band_half_life), None
    for played in play(adaptation, script):
        assert played.composition.band == reuse_band(script.settings, expected or 0.0)
        rates = [group.correctness_rate for group in played.fresh if group.is_verified]
        if rates:
            mean = float(np.mean(rates))
            expected = mean if expected is None else keep * expected + (1 - keep) * mean
        strength = adaptation.metrics()["policy_strength"]
        assert strength == pytest.approx(expected or 0.0, abs=1e-12)
        expected = None if expected is None else strength


@many
@given(scripts(), st.data())
def test_a_restored_state_goes_on_exactly_as_the_original(script, data):
    original, restored = script.adaptation(), script.adaptation()
    stop = data.draw(st.integers(0, len(script.fresh)))
    for step in range(1, stop + 1):
        play_step(original, script, step)
    restored.load_state_dict(through_disk(original.state_dict()))
    assert restored.metrics() == original.metrics()
    going_on = play(original, script, stop + 1)
    resumed = play(restored, script, stop + 1)
    for left, right in zip(going_on, resumed, strict=True):
        assert summary(left) == summary(right)
        assert original.metrics() == restored.metrics()
        assert original.suspects == restored.suspects
    assert canonical(original.state_dict()) == canonical(restored.state_dict())


@many
@given(scripts())
def test_composing_is_pure_and_repeatable(script):
    adaptation = script.adaptation()
    for step in range(1, len(script.fresh) + 1):
        played = play_step(adaptation, script, step)
        before = canonical(adaptation.state_dict())
        first = adaptation.compose(step + 1, played.fresh, ())
        second = adaptation.compose(step + 1, played.fresh, ())
        assert first.fates == second.fates
        assert canonical(adaptation.state_dict()) == before


@many
@given(scripts())
def test_missing_fresh_is_what_the_fresh_groups_leave_open(script):
    adaptation = script.adaptation()
    for played in play(adaptation, script):
        missing = adaptation.missing_fresh(played.fresh)
        outcomes = [
            fate.outcome for fate in played.composition.fates if fate.source is Source.FRESH
        ]
        taken = outcomes.count(Outcome.TRAINED) + outcomes.count(Outcome.BATCH_SKIPPED)
        if script.settings.filter_fresh:
            assert missing == script.batch_groups - taken
        else:
            assert missing == 0


@many
@given(adaptation_settings(), st.floats(0, 1))
def test_a_band_is_an_interval_of_rates_whatever_the_strength(rules, strength):
    band = reuse_band(rules, strength)
    assert -1e-12 <= band.low <= band.high + 1e-12
    assert band.high <= 1 + 1e-12


@many
@given(adaptation_settings(), st.floats(0, 1), st.floats(0, 1))
def test_the_rising_band_moves_from_its_first_to_its_last_ends_without_turning(rules, one, other):
    rules = replace(rules, band="rising")
    weak, strong = reuse_band(rules, min(one, other)), reuse_band(rules, max(one, other))
    for bounds, ends in [
        ((weak.low, strong.low), rules.reuse_low_range),
        ((weak.high, strong.high), rules.reuse_high_range),
    ]:
        direction = 1 if ends[1] >= ends[0] else -1
        assert direction * (bounds[1] - bounds[0]) >= -1e-12
        assert min(ends) - 1e-12 <= bounds[0] <= max(ends) + 1e-12
