import pytest

from bapo.evaluation import Evaluation, PromptResult, evaluate
from bapo.types import ChatMessage, Prompt
from tests.builders import make_prompt
from tests.table_policy import CountingLearner, TableEngine, read_letters

TABLE = {"a": "0000", "b": "1000", "c": "1111", "d": "11e0", "e": "tiei"}


def measure(names="abcde", *, prompts=None, samples=4, examples=0, table=TABLE):
    engine = TableEngine({(name, 0): letters for name, letters in table.items()})
    engine.publish(0, CountingLearner().weights)
    asked = prompts or [make_prompt(name, level=name.upper()) for name in names]
    return engine, evaluate(
        engine,
        read_letters,
        asked,
        split="held_out",
        version=0,
        samples=samples,
        seed=11,
        temperature=0.5,
        examples=examples,
    )


def test_every_prompt_is_asked_once_outside_training_and_only_valid_verdicts_count():
    engine, result = measure()
    (call,) = engine.asked
    assert (call.prompt_ids, call.version, call.step) == (tuple("abcde"), 0, 0)
    assert call.seeds == (11,) * 5
    assert result.prompts == (
        PromptResult("a", "A", 0, 4),
        PromptResult("b", "B", 1, 4),
        PromptResult("c", "C", 4, 4),
        PromptResult("d", "D", 2, 3),
        PromptResult("e", "E", 0, 0),
    )
    assert (result.split, result.samples) == ("held_out", 4)


def test_means_are_over_prompts_all_of_whose_verdicts_are_valid():
    """a, b and c have four valid verdicts; d has only three and e none, so they are left out of
    every mean, and show in the share of valid verdicts: 15 of 20."""
    _, result = measure()
    assert result.pass_at_1 == pytest.approx((0 + 1 / 4 + 1) / 3)
    assert result.pass_at_k == pytest.approx(2 / 3)
    assert result.all_wrong_share == pytest.approx(1 / 3)
    assert result.valid_share == pytest.approx(15 / 20)


def test_without_a_valid_verdict_nothing_is_measured():
    _, result = measure("e")
    assert (result.pass_at_1, result.pass_at_k, result.all_wrong_share) == (None, None, None)


def test_one_level_can_be_looked_at_alone():
    _, result = measure()
    assert result.of_level("B").pass_at_1 == 0.25
    assert result.of_level("B").prompts == result.prompts[1:2]
    assert result.of_level(None).prompts == result.prompts
    assert result.of_level("Z").pass_at_1 is None


def test_a_line_of_the_evaluation_file_holds_every_prompt():
    _, result = measure("bc")
    assert result.as_line() == {
        "split": "held_out",
        "samples": 4,
        "valid_share": 1.0,
        "pass_at_1": 0.625,
        "pass_at_k": 1.0,
        "all_wrong_share": 0.0,
        "prompts": [
            {"id": "b", "level": "B", "correct": 1, "valid": 4},
            {"id": "c", "level": "C", "correct": 4, "valid": 4},
        ],
    }


def test_examples_are_right_and_wrong_in_turn_each_of_another_prompt():
    """Right first: b is the first prompt with a right answer; then wrong, a; then right, c."""
    _, result = measure("abcd", examples=3)
    found = [(one.prompt_id, one.completion, one.correct) for one in result.examples]
    assert found == [("b", "1", True), ("a", "0", False), ("c", "1", True)]


def test_where_there_are_no_right_answers_examples_are_wrong_ones():
    _, result = measure("ae", examples=9)
    found = [(one.prompt_id, one.correct, one.status) for one in result.examples]
    assert found == [("a", False, "ok"), ("e", False, "timeout")]
    assert measure("a", examples=0)[1].examples == ()


def test_an_example_of_a_chat_shows_its_turns():
    chat = (ChatMessage("system", "Be brief."), ChatMessage("user", "1 + 1?"))
    _, result = measure(prompts=[Prompt("b", chat, {}, "easy")], examples=1)
    example = result.examples[0]
    assert (example.prompt, example.level) == ("Be brief.\n1 + 1?", "easy")


def test_an_evaluation_of_nothing_measures_nothing():
    assert Evaluation("held_out", 4, (), ()).pass_at_1 is None
