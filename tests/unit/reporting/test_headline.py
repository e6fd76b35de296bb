import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bapo.reporting.headline import (
    accuracy_within,
    common_budget,
    comparison_rows,
    held_out_outcome,
    tiles,
    verdict,
)
from bapo.reporting.runs import RunRecord
from bapo.reporting.variants import Variant


def run_of(accuracies: Sequence[float], rollouts_a_step: int = 100) -> RunRecord:
    """A run evaluated at steps 0, 1, 2, ... with the given pass@1."""
    evaluations: list[dict[str, Any]] = [
        {
            "step": step,
            "split": "held_out",
            "pass_at_1": accuracy,
            "rollouts": step * rollouts_a_step,
            "seconds": 60.0 * step,
        }
        for step, accuracy in enumerate(accuracies)
    ]
    metrics = tuple(
        {"step": step, "rollouts": rollouts_a_step, "seconds": 60.0}
        for step in range(1, len(accuracies))
    )
    return RunRecord(Path("run"), {"steps": 2}, "", {}, metrics, tuple(evaluations), (), None)


def variant(label: str, *seeds: Sequence[float], rollouts_a_step: int = 100) -> Variant:
    return Variant(label, label, tuple(run_of(seed, rollouts_a_step) for seed in seeds))


def test_the_outcome_of_seeds_is_their_mean_and_their_range() -> None:
    outcome = held_out_outcome(variant("bapo", [0.1, 0.2, 0.3], [0.2, 0.2, 0.5]))
    assert (outcome.before, outcome.after) == (pytest.approx(0.15), pytest.approx(0.4))
    assert outcome.after_spread is not None
    assert (outcome.after_spread.low, outcome.after_spread.high) == (0.3, 0.5)
    assert outcome.ratio == pytest.approx(0.4 / 0.15)
    assert outcome.ratio_spread is not None
    assert (outcome.ratio_spread.low, outcome.ratio_spread.high) == (
        pytest.approx(2.5),
        pytest.approx(3.0),
    )
    assert (outcome.seeds, outcome.step) == (2, 2)


def test_a_base_with_nothing_right_has_no_ratio() -> None:
    outcome = held_out_outcome(variant("bapo", [0.0, 0.2]))
    assert math.isnan(outcome.ratio)
    assert [tile.label for tile in tiles(variant("bapo", [0.0, 0.2]))] == [
        "rollouts",
        "of training",
    ]


def test_pass_at_k_stands_beside_that_of_the_base() -> None:
    shares = ([0.2, 0.4, 0.5], [0.4, 0.4, 0.6])
    runs = variant("bapo", [0.1, 0.1, 0.2], [0.1, 0.2, 0.3]).runs
    measured = tuple(
        replace(
            run,
            evaluations=tuple(
                {**line, "samples": 4, "pass_at_k": share}
                for line, share in zip(run.evaluations, of_run, strict=True)
            ),
        )
        for run, of_run in zip(runs, shares, strict=True)
    )
    (tile,) = [
        tile for tile in tiles(Variant("bapo", "bapo", measured)) if tile.label.startswith("held")
    ]
    assert (tile.label, tile.value, tile.detail) == (
        "held-out pass@4",
        "55.0\u00a0%",
        "the base: 30.0\u00a0%",
    )


def test_a_run_without_any_evaluation_claims_nothing() -> None:
    outcome = held_out_outcome(variant("bapo", []))
    assert math.isnan(outcome.before)
    assert math.isnan(outcome.after)
    assert (outcome.step, outcome.seeds) == (0, 0)
    assert tiles(variant("bapo", [])) == []


def test_at_equal_rollouts_the_last_evaluation_within_the_budget_counts() -> None:
    cheap, dear = (
        variant("bapo", [0.1, 0.2, 0.3]),
        variant("dapo", [0.1, 0.25, 0.4], rollouts_a_step=150),
    )
    assert common_budget([cheap, dear]) == 200
    assert accuracy_within(dear, 200) == 0.25
    head, rows = comparison_rows([cheap, dear])
    assert "within 200 rollouts" in head
    assert [row[0] for row in rows] == ["dapo", "bapo"]
    assert rows[0][head.index("within 200 rollouts")] == "25.0\u00a0%"
    assert math.isnan(common_budget([cheap]))


def test_the_verdict_names_the_winner_even_if_it_is_not_bapo() -> None:
    bapo = variant("bapo", [0.1, 0.2], [0.1, 0.22], [0.1, 0.21])
    grpo = variant("grpo", [0.1, 0.3], [0.1, 0.31], [0.1, 0.32])
    sentence = verdict([bapo, grpo])
    assert sentence.startswith("grpo ended highest with 31.0\u00a0%; next is bapo")
    assert sentence.endswith("Every seed of grpo ended above every seed of bapo.")


def test_the_verdict_says_when_seeds_overlap_or_are_too_few() -> None:
    one = variant("bapo", [0.1, 0.2], [0.1, 0.4])
    two = variant("grpo", [0.1, 0.3], [0.1, 0.28])
    assert verdict([one, two]).endswith("Their seeds overlap, so the order may be chance.")
    level = variant("filtered", [0.1, 0.29], [0.1, 0.29])
    assert verdict([two, level]) == "grpo and filtered ended level with 29.0\u00a0%."
    alone = variant("dapo", [0.1, 0.35])
    assert verdict([one, alone]).endswith("With one seed each, the order may be chance.")
    assert verdict([one]) == ""
    assert verdict([one, variant("dapo", [0.1])]) == ""
