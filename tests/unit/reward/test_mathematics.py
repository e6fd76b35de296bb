"""The mathematics verifier: its golden table, extraction, gold answers, and life in a worker."""

from pathlib import Path

import pytest
from benchmarks.golden_mathematics import WAYS, misjudged

from bapo.config import RewardSettings
from bapo.reward import VerifierPool, check_verifier, column_faults
from bapo.reward.verifiers.final_answer import FinalAnswer, final_answer, last_boxed
from bapo.reward.verifiers.mathematics import GOLDEN, check_columns, golden_table, verify
from bapo.reward.verifiers.notation import normalise
from bapo.types import Prompt, VerdictStatus

NAME = "bapo.reward.verifiers.mathematics:verify"
KINDS = {
    *("integer", "negative", "decimal", "fraction", "mixed number", "radical", "constant"),
    *("interval", "set", "list", "tuple", "matrix", "unit", "percent", "money", "scientific"),
    *("equation", "algebra", "complex", "function", "power", "text", "choice", "ratio", "base"),
    *("several boxes", "text around", "latex", "infinity"),
}


@pytest.fixture(scope="module")
def pool():
    with VerifierPool(NAME, RewardSettings(workers=1, timeout_seconds=2.0)) as opened:
        yield opened


def test_every_row_of_the_golden_table_is_judged_rightly():
    table = golden_table()
    assert [row for row in table if verify([row[2]], [row[1]]) != [row[3]]] == []
    assert len(table) > 400
    assert {row[0] for row in table} == KINDS


@pytest.mark.slow
def test_the_results_say_how_often_math_verify_alone_is_wrong():
    results = Path(__file__).resolve().parents[3] / "docs" / "results.md"
    page = " ".join(results.read_text(encoding="utf-8").split())
    ours, as_it_is, in_dollars = (misjudged(judge) for judge in WAYS.values())
    assert ours.total() == 0
    assert f"misjudges {as_it_is.total()}: it calls {as_it_is['right called wrong']} right" in page
    assert f"misjudges {in_dollars.total()} ({in_dollars['right called wrong']} and" in page


def test_the_cases_at_start_up_are_one_right_and_one_wrong_of_each_kind():
    assert len(GOLDEN) == 2 * len(KINDS)
    assert [case[2] for case in GOLDEN].count(True) == len(KINDS)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{\frac{1}{2}} it is", r"\frac{1}{2}"),
        (r"\boxed{1}, no: \boxed{2}", "2"),
        (r"$\boxed{1}$ and $\boxed{2}$", "1, 2"),
        (r"\boxed{1} \text{ or } \boxed{2}", "1, 2"),
        (r"\boxed{\boxed{3}}", "3"),
        (r"\boxed{4} and then \boxed{5", "4"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        ("no box", None),
        (r"\boxed{", None),
    ],
)
def test_the_last_closed_box_counts_with_those_joined_to_it(text, answer):
    assert last_boxed(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("#### 12\nThe answer is 5, \\boxed{7}", "7"),
        ("The answer is 5.\n#### 12 apples\nbye", "12 apples"),
        ("The answer is 4. <answer>x</answer> <answer> 5 </answer>", "5"),
        ("The answer is 3.5 cm. That is all.", "3.5 cm"),
        ("Answer: 1\nAnswer: 2", "2"),
        ("**Final answer:** $42$", "$42$"),
        ("The answer to the question is 9!", "9"),
        ("The answers are 1 and 2.", "1 and 2"),
    ],
)
def test_a_marked_answer_is_found_by_the_first_rule_that_applies(text, answer):
    assert final_answer(text) == FinalAnswer(answer, marked=True)


def test_without_a_mark_the_end_of_the_text_is_searched():
    found = final_answer("6 * 7 = 42\n" + "x" * 2000 + " 43")
    assert not found.marked
    assert len(found.text) == 1000
    assert verify(["so 6 * 7 = 42"], ["42"]) == [True]


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("1,234,567.50", "1234567.50"),
        ("1{,}234", "1234"),
        ("12,34", "12,34"),
        ("(100,200)", "(100,200)"),
        ("3.2e-5", r"3.2\times 10^{-5}"),
        ("2 1/2", r"(2+\frac{1}{2})"),
        (r"\$18.00", "18.00"),
        ("1, 2 and 3", "1, 2, 3"),
        ("√3", r"\sqrt{3}"),
        ("−7.", "-7"),
    ],
)
def test_notation_changes_and_values_do_not(text, written):
    assert normalise(text) == written


def test_a_gold_answer_is_taken_out_of_its_solution():
    gsm8k = "Janet sells 16 - 3 - 4 = <<16-3-4=9>>9 eggs.\n#### 18"
    mathematics = r"We have $x = 3$, so the answer is $\boxed{\frac{3}{4}}$."
    assert verify([r"\boxed{18}", r"\boxed{9}"], [gsm8k, gsm8k]) == [True, False]
    assert verify([r"\boxed{0.75}", r"\boxed{3}"], [mathematics, mathematics]) == [True, False]


def test_a_gold_answer_may_be_a_number():
    assert verify(["18", "18.5", "18"], [18, 18.5, 18.5]) == [True, True, False]


@pytest.mark.parametrize(
    ("gold", "reason"),
    [
        ("", "The gold answer is empty."),
        (r"\frac{1}{", r"The gold answer '\\frac{1}{' cannot be read as mathematics."),
        ("??", "The gold answer '??' cannot be read as mathematics."),
        (None, "The gold answer must be a text or a number, but is None."),
        (
            "1" * 501,
            "The gold answer has 501 characters, more than 500; give the final answer alone.",
        ),
    ],
)
def test_a_gold_answer_that_cannot_be_read_is_invalid_and_never_a_wrong_answer(gold, reason):
    assert check_columns(gold) == reason
    assert verify(["18"], [gold]) == [{"correct": False, "status": "invalid", "detail": reason}]


def test_huge_whole_numbers_are_compared_exactly():
    assert verify([rf"\boxed{{{10**30}}}"], [str(10**30 + 1)]) == [False]


def test_the_pool_runs_the_golden_cases_and_lives_on(pool):
    assert check_verifier(pool) == 58
    assert pool.verify([(r"\boxed{1/2}", {"answer": "0.5"})])[0].correct


def test_a_bad_gold_answer_is_found_before_the_first_step_and_named(pool):
    prompts = [Prompt("good", "1+1", {"answer": "2"}), Prompt("bad", "?", {"answer": "??"})]
    assert column_faults(pool, [*prompts, Prompt("none", "?", {"gold": "2"})]) == {
        "bad": f"the verifier '{NAME}' cannot use it "
        "(The gold answer '??' cannot be read as mathematics)",
        "none": f"the verifier '{NAME}' needs the column 'answer', which it lacks; its columns are "
        "gold",
    }


def test_an_answer_that_would_take_forever_costs_its_time_limit_and_no_more(pool):
    bomb, good = pool.verify(
        [(r"\boxed{9^{9^{9^{9}}}}", {"answer": "18"}), ("18", {"answer": "18"})]
    )
    assert bomb.status is VerdictStatus.TIMEOUT
    assert good.correct
