"""The gym's scorers behind a verifier: scores apart from correctness, and no text is run."""

import sys
from pathlib import Path

import pytest

from bapo.config import RewardSettings
from bapo.reward import VerifierPool, check_verifier
from bapo.reward.verifiers.gym import GOLDEN, check_columns, verify
from bapo.types import VerdictStatus

HANOI = next(columns for _, columns, _ in GOLDEN if columns["gym_task"] == "tower_of_hanoi")
GCD = next(columns for _, columns, _ in GOLDEN if columns["gym_task"] == "gcd")


def columns(task, answer, **metadata):
    entry = {"answer": answer, "metadata": metadata}
    return {"gym_task": task, "gym_options": {}, "gym_entry": entry, "answer_format": "text"}


def judged(completion, given):
    (verdict,) = verify([completion], **{name: [value] for name, value in given.items()})
    return verdict


@pytest.mark.parametrize(("completion", "given", "expected"), GOLDEN)
def test_golden_cases(completion, given, expected):
    assert judged(completion, given)["correct"] is expected


def test_a_fraction_is_a_score_and_not_correct():
    around = "Move disk 1 from Peg 1 to Peg 2\nMove disk 1 from Peg 2 to Peg 3"
    assert judged(around, HANOI) == {"correct": False, "score": 0.5}
    assert judged("Move disk 1 from Peg 1 to Peg 2", HANOI) == {"correct": False, "score": 0.05}


def test_what_a_scorer_cannot_read_is_wrong_with_its_reason():
    verdict = judged("seven", columns("prime_factorization", "7"))
    assert (verdict["correct"], verdict["score"]) == (False, 0.0)
    assert verdict["detail"].startswith("The gym's scorer cannot read it: ValueError: invalid")


POLYNOMIAL = columns(
    "polynomial_multiplication", "x**2 - 1", polynomial_expr="(x+1)*(x-1)", result="x**2 - 1"
)


def test_a_formula_in_another_form_is_right():
    assert judged("x*x - 1", POLYNOMIAL)["correct"]


ATTACKS = [
    ("polynomial_multiplication", "__import__('pathlib').Path('{file}').write_text('x')"),
    ("polynomial_multiplication", "open('{file}', 'w')"),
    ("polynomial_multiplication", "x.func"),
    ("countdown", "__import__('pathlib').Path('{file}').write_text('x')"),
    ("simple_integration", "open('{file}', 'w')"),
    ("intermediate_integration", "exec('1')"),
    ("spiral_matrix", "[open('{file}', 'w').write('x')]"),
    ("n_queens", "[open('{file}', 'w').write('x')]"),
    ("binary_matrix", "[[open('{file}', 'w').write('x')]]"),
    ("string_insertion", "[open('{file}', 'w').name]"),
]


@pytest.mark.parametrize(("task", "text"), ATTACKS)
def test_no_text_of_a_model_is_run(task, text, tmp_path):
    file = tmp_path / "written"
    given = columns(
        task,
        "1",
        **{"variable": "x", "integrand": "x", "numbers": [1], "target": 1, "solution": []},
        valid_answers=["1"],
    )
    assert not judged(text.format(file=file), given)["correct"]
    assert not file.exists()


def test_the_scorers_that_run_text_are_all_known():
    """Whoever raises the version of reasoning-gym learns of a new scorer that runs the answer."""
    import reasoning_gym

    root = Path(reasoning_gym.__file__).parent
    texts = {path.stem: path.read_text(encoding="utf-8") for path in root.rglob("*.py")}
    evaluates = {name for name, text in texts.items() if "eval(answer)" in text}
    symbolic = {name for name, text in texts.items() if "parse_expr(answer" in text}
    module = sys.modules["bapo.reward.verifiers.gym"]
    assert evaluates == module._EVALUATES
    assert symbolic == module._SYMBOLIC | {"puzzle24"}  # which is not served


def test_a_problem_whose_own_answer_is_not_right_cannot_be_used():
    assert check_columns(**GCD) == ""
    assert check_columns(**HANOI) == ""
    wrong = {**HANOI["gym_entry"], "answer": "Move disk 1 from Peg 1 to Peg 2"}
    reason = "the gym's own answer gets 0.05 of 1 from the gym's scorer"
    assert check_columns(**{**HANOI, "gym_entry": wrong}) == reason


def test_the_pool_scores_in_its_workers():
    settings = RewardSettings(workers=1)
    with VerifierPool("bapo.reward.verifiers.gym:verify", settings) as pool:
        assert check_verifier(pool) == len(GOLDEN)
        right, half = pool.verify(
            [("<answer>12</answer>", GCD), ("Move disk 1 from Peg 1 to Peg 2", HANOI)]
        )
    assert (right.correct, right.score, right.status) == (True, 1.0, VerdictStatus.OK)
    assert (half.correct, half.score, half.status) == (False, 0.05, VerdictStatus.OK)
