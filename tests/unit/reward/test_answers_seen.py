"""What of a completion a verifier sees, in which form, and what its length costs."""

import pytest

from bapo.reward import GroupVerifier, check_verifier, column_faults
from bapo.types import ChatMessage, FinishReason, Prompt
from tests.builders import make_completion, make_prompt, make_rollout
from tests.unit.reward.helpers import make_pool, write_verifier

IS_FOUR = "def verify(completions): return [text.strip() == '4' for text in completions]"


def verdicts_of(verifier, texts, *, prompt=None, lengths=None, max_new_tokens=0, **settings):
    lengths = lengths or [2] * len(texts)
    completions = [
        make_completion(
            list(range(5, 5 + length)),
            text=text,
            finish_reason=FinishReason.LENGTH if length == max_new_tokens else FinishReason.STOP,
        )
        for text, length in zip(texts, lengths, strict=True)
    ]
    rollout = make_rollout(prompt or make_prompt(), completions=completions)
    with make_pool(verifier, timeout_seconds=5.0, **settings) as pool:
        check_verifier(pool)
        (group,) = GroupVerifier(pool, max_new_tokens)([rollout])
    return group.verdicts


def test_a_verifier_sees_what_follows_the_last_thought(tmp_path):
    verifier = write_verifier(tmp_path, IS_FOUR)
    texts = [
        "<think>2+2 is 5</think>\n4",
        "so 4</think>4",  # the prompt's template opened the block
        "<think>4</think>no: <think>5</think>4",
        "<think>4</think>5",
    ]
    seen = verdicts_of(verifier, texts, answer_after="</think>")
    assert [one.correct for one in seen] == [True, True, True, False]
    assert not any(one.correct for one in verdicts_of(verifier, texts))  # all is seen without it


def test_a_thought_that_was_cut_off_is_wrong_without_the_verifier_being_asked(tmp_path):
    verifier = write_verifier(tmp_path, "def verify(completions): return [True]")
    cut, empty = verdicts_of(verifier, ["<think>4", "</think>"], answer_after="</think>")
    assert (cut.correct, cut.score, cut.status.value) == (False, 0.0, "ok")
    assert cut.detail == "There is no answer, as '</think>' never came."
    assert empty.correct


def test_the_penalty_for_length_grows_over_the_last_tokens_and_leaves_correctness_alone(tmp_path):
    """Limit 10, last 4 tokens: 6 cost nothing, 7 a quarter, 8 a half, 10 all of it."""
    verifier = write_verifier(tmp_path, IS_FOUR)
    given = {"lengths": [1, 6, 7, 8, 10, 10], "max_new_tokens": 10, "overlong_tokens": 4}
    texts = ["4", "4", "4", "4", "4", "5"]
    seen = verdicts_of(verifier, texts, **given)
    assert [one.score for one in seen] == [1.0, 1.0, 0.75, 0.5, 0.0, -1.0]
    assert [one.correct for one in seen] == [True] * 5 + [False]
    half = verdicts_of(verifier, texts, **given, overlong_penalty=0.5)
    assert [one.score for one in half] == [1.0, 1.0, 0.875, 0.75, 0.5, -0.5]


def test_a_failed_verdict_has_no_penalty(tmp_path):
    verifier = write_verifier(tmp_path, "def verify(completions): raise KeyError('gold')")
    (one,) = verdicts_of(verifier, ["4"], lengths=[10], max_new_tokens=10, overlong_tokens=4)
    assert (one.status.value, one.score) == ("error", 0.0)


def test_a_reward_function_written_for_trl_is_given_messages(tmp_path):
    source = """
GOLDEN = [([{"role": "assistant", "content": "4"}], {"answer": "4", "prompts": ""}, True)]

def verify(prompts, completions, answer, completion_ids=((5, 6),), **kwargs):
    if prompts[0]:
        assert prompts == [[{"role": "user", "content": "2+2?"}]]
    assert [list(ids) for ids in completion_ids] == [[5, 6]]
    return [float(one[0]["content"] == right) for one, right in zip(completions, answer)]
"""
    chat = Prompt("c", (ChatMessage("user", "2+2?"),), {"answer": "4"})
    verifier = write_verifier(tmp_path, source)
    seen = verdicts_of(verifier, ["4", "5"], prompt=chat, completions_as="messages")
    assert [(one.correct, one.detail) for one in seen] == [(True, ""), (False, "")]


def test_answers_to_texts_are_texts_even_so(tmp_path):
    plain = make_prompt(content="2+2=")
    seen = verdicts_of(
        write_verifier(tmp_path, IS_FOUR), ["4"], prompt=plain, completions_as="messages"
    )
    assert seen[0].correct


def test_a_verifier_that_needs_the_tokens_is_no_fault_of_the_rows(tmp_path):
    source = "def verify(completions, completion_ids): return [len(ids) for ids in completion_ids]"
    verifier = write_verifier(tmp_path, source)
    with make_pool(verifier) as pool:
        assert column_faults(pool, [make_prompt()]) == {}
    (one,) = verdicts_of(verifier, ["x"], lengths=[3])
    assert one.score == 3.0


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        ("[None]", "returned None for this completion"),
        ("None", "returned None where a list with one result"),
        ("[1.0, 0.0]", "returned 2 results for 1 completion"),
    ],
)
def test_what_is_no_score_is_invalid_and_never_a_zero(tmp_path, returned, reason):
    verifier = write_verifier(tmp_path, f"def verify(completions): return {returned}")
    (one,) = verdicts_of(verifier, ["4"])
    assert one.status.value == "invalid"
    assert reason in one.detail
