"""Countdown: rows, splits, knobs and gold answers."""

import hashlib
from collections import Counter

import pytest

from bapo.errors import DataError, SettingError
from bapo.reward.verifiers.countdown import verify
from bapo.tasks.countdown import (
    Countdown,
    CountdownSettings,
    Problem,
    Split,
    build_countdown,
    expression_prompt,
    steps_prompt,
    worked_steps,
)
from bapo.types import ChatMessage
from tests.countdown_gold import gold_expression

TEN_SUMS = {"numbers": [2], "operations": "+", "largest": 4, "target_low": 2, "target_high": 8}
EXAMPLE = Problem((3, 5, 7), 22, ((5, "*", 3, 15), (15, "+", 7, 22)))


def rows(split, count, **knobs):
    task = Countdown(CountdownSettings(**knobs))
    return [task.row(split, index) for index in range(count)]


def gold_scores(problems, answer_format):
    answer = {
        "steps": worked_steps,
        "expression": lambda p: f"<answer>{gold_expression(p)}</answer>",
    }
    return verify(
        completions=[answer[answer_format](problem) for problem in problems],
        numbers=[list(problem.numbers) for problem in problems],
        target=[problem.target for problem in problems],
        answer_format=[answer_format] * len(problems),
        use_all=[True] * len(problems),
    )


def test_a_problem_is_written_in_both_formats():
    assert steps_prompt(EXAMPLE) == "3 5 7>22\n"
    assert worked_steps(EXAMPLE) == "5*3=15,15+7=22"
    assert gold_expression(EXAMPLE) == "((5*3)+7)"
    (message,) = expression_prompt(EXAMPLE)
    assert message.role == "user"
    assert message.content.startswith("Using the numbers 3, 5, 7, write an arithmetic expression")
    assert "that equals 22." in message.content


def test_a_gold_expression_uses_two_equal_numbers_once_each():
    problem = Problem((4, 4, 4), 12, ((4, "+", 4, 8), (8, "+", 4, 12)))
    assert gold_expression(problem) == "((4+4)+4)"


def test_the_same_numbers_in_another_order_are_the_same_problem():
    other = Problem((7, 3, 5), 22, EXAMPLE.steps)
    assert EXAMPLE.identity == other.identity == "cd3-3.5.7-22"
    assert EXAMPLE.split is other.split
    assert Problem((3, 5, 7), 23, ()).identity != EXAMPLE.identity


def test_the_first_rows_are_those_that_the_embedded_model_was_made_from():
    written = [repr(row) for split in Split for row in rows(split, 50)]
    digest = hashlib.sha256("".join(written).encode()).hexdigest()
    assert digest.startswith("45d64fa4fd5c510e")


@pytest.mark.parametrize("split", list(Split))
def test_a_row_follows_from_seed_and_index_alone(split):
    task = Countdown(CountdownSettings(seed=7))
    backwards = [task.row(split, index) for index in reversed(range(20))]
    assert backwards[::-1] == rows(split, 20, seed=7)
    assert rows(split, 20, seed=8) != rows(split, 20, seed=7)


def test_prompts_do_not_depend_on_how_many_are_asked_for():
    task = build_countdown({"train_size": 30})
    assert task.evaluation_prompts(10) == task.evaluation_prompts(25)[:10]
    assert build_countdown({"train_size": 12}).training_prompts() == task.training_prompts()[:12]


def test_whole_sets_share_no_problem_and_repeat_none():
    task = build_countdown({"numbers": [3], "largest": 9, "train_size": 400})
    training = [prompt.prompt_id for prompt in task.training_prompts()]
    held_out = [prompt.prompt_id for prompt in task.evaluation_prompts(200)]
    shown = [task.worked_example(index)[0] for index in range(400)]
    cold = {
        f"cd3-{'.'.join(sorted(t[:-1].split('>')[0].split()))}-{t[:-1].split('>')[1]}"
        for t in shown
    }
    assert len(set(training)) == 400
    assert len(set(held_out)) == 200
    assert len(cold) > 200
    assert not set(training) & set(held_out)
    assert not cold & (set(training) | set(held_out))


def test_evaluation_sets_of_other_seeds_share_nothing_with_training():
    training = {row.identity for row in rows(Split.TRAINING, 500, numbers=(3,), largest=6)}
    for seed in range(1, 4):
        held_out = rows(Split.EVALUATION, 300, numbers=(3,), largest=6, seed=seed)
        assert not training & {row.identity for row in held_out}


def test_splits_have_the_shares_of_their_hash_slots():
    # Of 10,000 made-up problems 2, 4 and 4 tenths, within three standard deviations.
    split = Counter(Problem((1, 2, 3), target, ()).split for target in range(10_000))
    assert abs(split[Split.EVALUATION] - 2000) < 3 * 40
    assert abs(split[Split.WARMSTART] - 4000) < 3 * 49
    assert abs(split[Split.TRAINING] - 4000) < 3 * 49


@pytest.mark.parametrize("answer_format", ["steps", "expression"])
@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"numbers": (2,), "largest": 50},
        {"numbers": (6,), "target_high": 999},
        {"numbers": (4,), "operations": "*/", "target_low": 1},
    ],
)
def test_every_gold_answer_scores_1_and_uses_every_number(knobs, answer_format):
    problems = [row for split in Split for row in rows(split, 60, **knobs)]
    assert [bool(score) for score in gold_scores(problems, answer_format)] == [True] * 180


def test_gold_answers_and_prompts_stay_inside_the_alphabet():
    task = Countdown(CountdownSettings(numbers=(2, 3, 4, 5), largest=100, target_high=9999))
    seen = {c for index in range(300) for text in task.worked_example(index) for c in text}
    assert seen == set(task.alphabet)


def test_a_prompt_carries_what_the_verifier_needs():
    prompt = Countdown(CountdownSettings()).prompt(EXAMPLE)
    assert prompt.prompt_id == "cd3-3.5.7-22"
    assert prompt.content == "3 5 7>22\n"
    assert prompt.columns == {"numbers": [3, 5, 7], "target": 22, "answer_format": "steps"}
    assert prompt.level == "CD-3"
    chat = Countdown(CountdownSettings(answer_format="expression")).prompt(EXAMPLE)
    assert isinstance(chat.content, tuple)
    assert isinstance(chat.content[0], ChatMessage)
    assert chat.columns["answer_format"] == "expression"
    assert chat.prompt_id == prompt.prompt_id


def test_knobs_do_what_they_say():
    problems = rows(
        Split.TRAINING, 200, numbers=(5,), largest=7, target_low=30, target_high=40, operations="+*"
    )
    assert {len(problem.numbers) for problem in problems} == {5}
    assert {number for problem in problems for number in problem.numbers} == {1, 2, 3, 4, 5, 6, 7}
    assert {problem.target for problem in problems} == set(range(30, 41))
    assert {step[1] for problem in problems for step in problem.steps} == {"+", "*"}


def test_steps_are_positive_whole_numbers_with_the_larger_operand_first():
    for problem in rows(Split.WARMSTART, 300):
        for left, operation, right, result in problem.steps:
            assert left >= right >= 1
            assert result >= 1
            assert {"+": left + right, "-": left - right, "*": left * right, "/": left / right}[
                operation
            ] == result
        assert problem.steps[-1][3] == problem.target


def test_levels_name_the_count_of_numbers():
    task = build_countdown({"numbers": [2, 5], "train_size": 60})
    assert task.name == "CD-25"
    for prompt in task.training_prompts():
        assert prompt.level == f"CD-{len(prompt.columns['numbers'])}"


def test_weights_shift_the_mix():
    def share(weights):
        counts = Counter(len(p.numbers) for p in rows(Split.TRAINING, 400, weights=weights))
        return counts[4] / 400

    assert share((1.0, 0.0)) == 0
    assert share((0.0, 2.0)) == 1
    assert 0.34 < share(()) < 0.54  # 44 %, two and a half standard deviations either way wide
    assert share((1.0, 3.0)) > 0.6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"numbers": []}, "'task.numbers' is []"),
        ({"numbers": [3, 3]}, "'task.numbers' is [3, 3]"),
        ({"weights": [1.0]}, "'task.weights' is [1.0] for the values [3, 4] of 'task.numbers'"),
        ({"weights": [0, 0]}, "not all zero"),
        ({"weights": [1e308, 1e308]}, "one finite share for each"),
        ({"target_low": 50, "target_high": 49}, "'task.target_low' is 50, above"),
        ({"operations": ""}, "may hold only + - * and /"),
        ({"operations": "+%"}, "'task.operations' is '+%'"),
    ],
)
def test_knobs_at_odds_are_refused_in_one_sentence(options, message):
    with pytest.raises(SettingError) as caught:
        build_countdown(options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_knobs_without_any_problem_end_in_one_sentence():
    task = build_countdown({"numbers": [2], "operations": "+", "target_low": 50})
    with pytest.raises(DataError, match=r"^No Countdown problem was found in 20000 .*widen"):
        task.training_prompts()


def test_asking_for_more_training_problems_than_there_are_names_the_number_there_is():
    task = build_countdown(
        {"numbers": [2], "operations": "+", "largest": 4, "target_low": 2, "target_high": 8}
    )
    every = [Problem((a, b), a + b, ()) for a in range(1, 5) for b in range(a, 5)]
    assert len(every) == 10
    there = sum(problem.split is Split.TRAINING for problem in every)
    assert 0 < there < 10
    with pytest.raises(DataError, match=f"^Only {there} different training problems of 'CD-"):
        task.training_prompts()


def test_fewer_held_out_problems_than_asked_for_are_given_as_they_are():
    task = build_countdown(
        {"numbers": [2], "operations": "+", "largest": 4, "target_low": 2, "target_high": 8}
    )
    every = [Problem((a, b), a + b, ()) for a in range(1, 5) for b in range(a, 5)]
    assert len(every) == 10
    there = {problem.identity for problem in every if problem.split is Split.EVALUATION}
    assert {prompt.prompt_id for prompt in task.evaluation_prompts(50)} == there


def test_a_cold_start_in_the_expression_format_is_refused():
    with pytest.raises(SettingError, match="a cold start needs 'steps'"):
        build_countdown({"answer_format": "expression"}).worked_example(0)
