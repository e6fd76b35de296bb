"""The limit on the buffers in bytes, over random scripts of steps and limits."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from bapo.adaptation import BufferEventKind as Kind
from bapo.adaptation.packed import pack
from bapo.adaptation.sizes import group_bytes, prompt_bytes
from tests.builders import through_disk
from tests.property.scripts import play, play_step, scripts

many = settings(max_examples=60, deadline=None)
# A group of a script takes 2 to 3 kilobytes, a prompt one.
limits = st.floats(0.0005, 0.03)


def limited(script, megabytes):
    return replace(script, settings=replace(script.settings, max_buffer_megabytes=megabytes))


def reuse_events(played):
    return [(e.event, e.prompt_id) for e in played.events if e.event.value.startswith("reuse")]


@many
@given(scripts(), limits)
def test_the_buffers_stay_within_the_limit_and_lose_the_oldest_first(script, megabytes):
    script = limited(script, megabytes)
    adaptation, rules, held = script.adaptation(), script.settings, []
    for played in play(adaptation, script):
        hard = [prompt_bytes(prompt) for prompt in adaptation.prompts_to_retry(rules.retry_every)]
        expected = []
        if rules.reuse:
            kept = [*played.fresh, *(played.retried if rules.reuse_retried else ())]
            old = [one for one in held if one[0] <= played.step - rules.reuse_window]
            new = [
                (played.step, group)
                for group in kept
                if group.is_verified and 0 < group.correctness_rate < 1
            ]
            held = [*held[len(old) :], *new]
            gone = []
            while sum(group_bytes(pack(group)) for _, group in held) > megabytes * 1e6 - sum(hard):
                gone.append(held.pop(0))
            for kind, entries in (
                (Kind.REUSE_EXPIRED, old),
                (Kind.REUSE_ENTERED, new),
                (Kind.REUSE_EVICTED, gone),
            ):
                expected += [(kind, group.prompt_id) for _, group in entries]
        assert reuse_events(played) == expected
        metrics = adaptation.metrics()
        assert metrics["reuse_buffer_size"] == len(held)
        assert metrics["reuse_buffer_evicted"] == sum(
            kind is Kind.REUSE_EVICTED for kind, _ in expected
        )
        taken = sum(hard) + sum(group_bytes(pack(group)) for _, group in held)
        assert metrics["buffer_megabytes"] == taken / 1e6 <= megabytes


@many
@given(scripts())
def test_a_limit_that_is_never_reached_changes_nothing(script):
    plain = play(script.adaptation(), script)
    for left, right in zip(plain, play(limited(script, 1.0).adaptation(), script), strict=True):
        assert left.events == right.events
        assert left.composition.fates == right.composition.fates


@many
@given(scripts(), limits, st.data())
def test_a_limited_state_goes_on_exactly_where_it_was_restored(script, megabytes, data):
    script = limited(script, megabytes)
    original, restored = script.adaptation(), script.adaptation()
    stop = data.draw(st.integers(0, len(script.fresh)))
    for step in range(1, stop + 1):
        play_step(original, script, step)
    restored.load_state_dict(through_disk(original.state_dict()))
    assert restored.metrics() == original.metrics()
    pairs = zip(play(original, script, stop + 1), play(restored, script, stop + 1), strict=True)
    for left, right in pairs:
        assert (left.events, left.composition.fates) == (right.events, right.composition.fates)
        assert original.metrics() == restored.metrics()
