import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bapo.reporting.measures import (
    accuracy_by_level,
    before_and_after,
    control_movement,
    difficulty_levels,
    held_out_points,
    pooled,
    trained_movement,
    unsolved_solved,
)
from bapo.reporting.runs import RunRecord


def evaluation(step: int, split: str, corrects: Sequence[int], samples: int = 4) -> dict[str, Any]:
    return {
        "step": step,
        "split": split,
        "rollouts": 100 * step,
        "seconds": 2.0 * step,
        "samples": samples,
        "pass_at_1": sum(corrects) / len(corrects) / samples,
        "prompts": [
            {"id": f"p{index}", "level": "AB"[index % 2], "correct": correct, "valid": samples}
            for index, correct in enumerate(corrects)
        ],
    }


def run_with(*evaluations: dict[str, Any], summary: dict[str, Any] | None = None) -> RunRecord:
    return RunRecord(Path("run"), {}, "", {}, (), evaluations, (), summary)


@pytest.mark.parametrize(
    ("samples", "labels"),
    [
        (1, ["0", "1"]),
        (2, ["0", "1", "2"]),
        (4, ["0", "1", "2", "3", "4"]),
        (8, ["0", "1–2", "3–4", "5–7", "8"]),
        (16, ["0", "1–4", "5–8", "9–15", "16"]),
    ],
)
def test_levels_cover_every_count_once(samples: int, labels: list[str]) -> None:
    levels = difficulty_levels(samples)
    assert [level.label for level in levels] == labels
    covered = [count for level in levels for count in range(level.low, level.high + 1)]
    assert covered == list(range(samples + 1))


def test_prompts_move_from_the_row_of_their_level_to_the_column() -> None:
    run = run_with(evaluation(0, "training", [0, 0, 1, 4]), evaluation(9, "training", [0, 2, 4, 4]))
    movement = trained_movement(run)
    assert movement is not None
    assert movement.counts.tolist() == [
        [1, 0, 1, 0, 0],
        [0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 1],
    ]
    assert (movement.unsolved, movement.unsolved_solved) == (2, 1)


def test_the_control_is_the_base_asked_again() -> None:
    run = run_with(
        evaluation(0, "training", [0, 0, 0, 4]),
        evaluation(0, "training_again", [1, 0, 0, 0]),
        evaluation(9, "training", [2, 1, 0, 4]),
    )
    found = unsolved_solved(run)
    assert found is not None
    assert (found.unsolved, found.solved, found.asked_again, found.by_base) == (3, 2, 3, 1)
    assert found.share == pytest.approx(2 / 3)
    assert found.control == pytest.approx(1 / 3)


def test_a_prompt_with_a_verdict_that_is_not_ok_is_left_out_and_counted() -> None:
    before, after = evaluation(0, "training", [0, 0, 1]), evaluation(9, "training", [1, 1, 1])
    after["prompts"][1]["valid"] = 3
    movement = trained_movement(run_with(before, after))
    assert movement is not None
    assert (movement.counts.sum(), movement.left_out, movement.unsolved) == (2, 1, 1)


def test_there_is_no_movement_before_the_end_or_with_another_number_of_samples() -> None:
    start = evaluation(0, "training", [0, 1])
    assert trained_movement(run_with(start)) is None
    assert control_movement(run_with(start)) is None
    other = evaluation(9, "training", [0, 1], samples=8)
    assert trained_movement(run_with(start, other)) is None
    late = evaluation(5, "training", [0, 1])
    assert trained_movement(run_with(late, evaluation(9, "training", [1, 1]))) is None


def test_movements_of_several_seeds_add_up() -> None:
    run = run_with(evaluation(0, "training", [0, 1]), evaluation(9, "training", [2, 1]))
    both = pooled([trained_movement(run), None, trained_movement(run)])
    assert both is not None
    assert (both.counts.sum(), both.runs, both.unsolved_solved) == (4, 2, 2)
    assert pooled([None]) is None


def test_without_training_evaluations_the_summary_is_believed() -> None:
    summary = {"unsolved": 10, "unsolved_solved": 4, "unsolved_solved_by_base": 2}
    found = unsolved_solved(run_with(summary=summary))
    assert found is not None
    assert (found.share, found.control) == (0.4, 0.2)
    assert unsolved_solved(run_with(summary={"unsolved": None})) is None


def test_nothing_unsolved_is_no_share_rather_than_a_zero() -> None:
    run = run_with(evaluation(0, "training", [1, 1]), evaluation(9, "training", [1, 1]))
    found = unsolved_solved(run)
    assert found is not None
    assert math.isnan(found.share)
    assert math.isnan(found.control)


def test_held_out_points_leave_out_what_was_not_measured() -> None:
    empty = evaluation(4, "held_out", [1, 1]) | {"pass_at_1": None}
    run = run_with(evaluation(0, "held_out", [1, 1]), empty, evaluation(8, "held_out", [2, 4]))
    points = held_out_points(run)
    assert [(point.step, point.rollouts, point.seconds) for point in points] == [
        (0, 0.0, 0.0),
        (8, 800.0, 16.0),
    ]
    assert [point.pass_at_1 for point in points] == [0.25, 0.75]
    before, after = before_and_after(run)
    assert before is points[0] or before == points[0]
    assert after is not None
    assert after.step == 8


def test_a_run_that_was_only_measured_at_the_start_has_no_after() -> None:
    before, after = before_and_after(run_with(evaluation(0, "held_out", [1])))
    assert before is not None
    assert after is None
    assert before_and_after(run_with()) == (None, None)


def test_accuracy_by_level_pools_runs_and_counts_each_prompt_once() -> None:
    run = run_with(evaluation(0, "held_out", [0, 2, 2, 2]), evaluation(8, "held_out", [2, 4, 4, 4]))
    levels = accuracy_by_level([run, run])
    assert [(one.level, one.prompts, one.before, one.after) for one in levels] == [
        ("A", 2, 0.25, 0.75),
        ("B", 2, 0.5, 1.0),
    ]
