import pytest

from bapo.adaptation import Adaptation, Composition
from bapo.adaptation.bands import Band
from bapo.adaptation.records import GroupFate, GroupOutcome
from bapo.config import AdaptationSettings
from bapo.training import METRIC_KEYS, UpdateReport
from bapo.training.bounds import BOUND_METRICS
from bapo.training.metrics import PHASES, StepInputs, step_metrics
from bapo.types import FinishReason, Group, Source
from tests.builders import (
    make_batch,
    make_completion,
    make_group,
    make_rollout,
    make_verdicts,
)

OBJECTIVE = {
    "importance_weight_mean": 1.5,
    "importance_weight_truncated_share": 0.25,
    "ratio_clipped_share": 0.125,
    "entropy": 2.0,
    "kl_behavior": 0.5,
}
NOTHING = UpdateReport(objective=dict.fromkeys(OBJECTIVE))


def metrics_of(fresh=(), retried=(), batch=None, fates=(), update=NOTHING, seconds=None):
    adaptation = Adaptation(AdaptationSettings(), batch_groups=4, seed=0)
    return step_metrics(
        StepInputs(
            fresh=fresh,
            retried=retried,
            composition=Composition(batch or make_batch(7), fates, Band(0.1, 0.2)),
            update=update,
            adaptation=adaptation.metrics() | {"of_no_metric": 1},
            epoch=1.5,
            seconds=seconds or {},
        )
    )


def test_a_step_in_which_nothing_happened_has_every_key_and_none_where_nothing_was_measured():
    metrics = metrics_of()
    assert tuple(metrics) == METRIC_KEYS
    empty = {key for key, value in metrics.items() if value is None}
    assert empty == {
        *OBJECTIVE,
        *BOUND_METRICS,
        "importance_cap",
        "correctness_fresh",
        "correctness_retried",
        "sampler_gap",
        "staleness_mean",
        "loss",
        "grad_norm",
        "completion_tokens_mean",
        "truncated_share",
    }
    others = {
        "step": 7,
        "epoch": 1.5,
        "reuse_high": 0.25,
        "reuse_window": 3,
        "behavior_delay": 5,
        "step_scale": 1.0,
    }
    assert {key: value for key, value in metrics.items() if value} == others


def test_completions_tokens_and_verdicts_of_fresh_and_retried_groups_are_counted_together():
    """Lengths 1, 2, 3, 6 of which the last ran into the limit, and two of 4: 20 tokens of six."""
    completions = [make_completion([5] * n) for n in (1, 2, 3)]
    completions.append(make_completion([5] * 6, finish_reason=FinishReason.LENGTH))
    fresh = Group(make_rollout(completions=completions), make_verdicts("10it"))
    retried = make_group("b", "1e", tokens=4)
    metrics = metrics_of([fresh], [retried])
    expected = {
        "rollouts": 6,
        "generated_tokens": 20,
        "completion_tokens_mean": 20 / 6,
        "truncated_share": 1 / 6,
        "verdicts_ok": 3,
        "verdicts_invalid": 1,
        "verdicts_timeout": 1,
        "verdicts_error": 1,
        "groups_sampled_fresh": 1,
        "groups_sampled_retried": 1,
        "groups_unverified": 1,
        "correctness_fresh": None,
        "correctness_retried": None,
    }
    assert {key: metrics[key] for key in expected} == expected


def test_groups_are_counted_by_what_they_are_and_by_where_the_batch_has_them_from():
    """Fresh: two all wrong, one all right, one of 1/4, one unverified; step 7 starts at version 6,
    so the batch is 2, 0, 3 and 6 steps stale."""
    patterns = {"a": "0000", "b": "0000", "c": "1111", "d": "1000", "e": "1e11"}
    fresh = [make_group(name, letters) for name, letters in patterns.items()]
    retried = [make_group("f", "0000"), make_group("g", "1110")]
    batch = make_batch(
        7,
        (make_group("d", "1000", version=4), Source.FRESH),
        (make_group("g", "1110", version=6), Source.RETRIED),
        (make_group("h", "1100", version=3), Source.REUSED),
        (make_group("i", "1100", version=0), Source.REUSED),
    )
    surplus = GroupFate("x", Source.RETRIED, 0.5, 6, GroupOutcome.SURPLUS)
    other = GroupFate("y", Source.FRESH, 0.5, 6, GroupOutcome.NOT_ACCEPTED)
    metrics = metrics_of(fresh, retried, batch, (surplus, other, surplus))
    expected = {
        "groups_fresh": 1,
        "groups_retried": 1,
        "groups_reused": 2,
        "groups_sampled_fresh": 5,
        "groups_sampled_retried": 2,
        "groups_all_wrong": 2,
        "groups_all_right": 1,
        "groups_unverified": 1,
        "groups_surplus": 2,
        "correctness_fresh": 1.25 / 4,
        "correctness_retried": 0.375,
        "staleness_mean": 11 / 4,
    }
    assert {key: metrics[key] for key in expected} == expected


def test_what_the_learner_reports_goes_into_the_line_as_it_is():
    update = UpdateReport(
        loss=-0.5,
        grad_norm=3.0,
        learning_rate=1e-5,
        updates=1,
        nonfinite=2,
        empty=1,
        forward_tokens=100,
        backward_tokens=200,
        objective=OBJECTIVE,
        importance_cap=2.5,
    )
    metrics = metrics_of(update=update)
    expected = OBJECTIVE | {
        "loss": -0.5,
        "grad_norm": 3.0,
        "learning_rate": 1e-5,
        "updates": 1,
        "updates_skipped": 3,
        "forward_tokens": 100,
        "backward_tokens": 200,
        "importance_cap": 2.5,
    }
    assert {key: metrics[key] for key in expected} == expected


def test_the_seconds_of_a_step_are_the_sum_of_its_phases():
    metrics = metrics_of(seconds={"rollout": 2.0, "update": 1.0, "sync": 0.5})
    phases = {key: value for key, value in metrics.items() if key.startswith("seconds_")}
    assert list(phases) == [f"seconds_{phase}" for phase in PHASES]
    assert {key: value for key, value in phases.items() if value} == {
        "seconds_rollout": 2.0,
        "seconds_update": 1.0,
        "seconds_sync": 0.5,
    }
    assert metrics["seconds"] == pytest.approx(3.5)
