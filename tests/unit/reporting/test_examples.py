from pathlib import Path
from typing import Any

from bapo.reporting.examples import choose_examples, examples_html
from bapo.reporting.runs import RunRecord


def example(step: int, name: str, correct: bool, **changes: Any) -> dict[str, Any]:
    return {
        "step": step,
        "split": "held_out",
        "prompt_id": name,
        "level": "CD-4",
        "prompt": f"{name}?",
        "completion": f"{name} at {step}",
        "correct": correct,
        "status": "ok",
        **changes,
    }


def run_with(*examples: dict[str, Any]) -> RunRecord:
    return RunRecord(Path("run"), {}, "", {}, (), (), examples, None)


def test_right_ones_come_first_and_no_more_than_asked_of_each_kind() -> None:
    rows = [example(8, f"p{index}", correct=index % 2 == 0) for index in range(8)]
    chosen = choose_examples(run_with(*rows), each=2)
    assert [one.after["prompt_id"] for one in chosen] == ["p0", "p2", "p1", "p3"]


def test_problems_that_the_base_got_wrong_come_before_those_it_got_right() -> None:
    chosen = choose_examples(
        run_with(
            example(0, "easy", True),
            example(0, "hard", False),
            example(8, "easy", True),
            example(8, "hard", True),
            example(8, "new", True),
        )
    )
    assert [one.after["prompt_id"] for one in chosen] == ["hard", "new", "easy"]
    assert chosen[0].before is not None
    assert chosen[0].before["completion"] == "hard at 0"
    assert chosen[1].before is None


def test_a_run_measured_only_at_the_start_shows_the_base_alone() -> None:
    (chosen,) = choose_examples(run_with(example(0, "p", False)))
    assert chosen.before is None
    assert "the base" in examples_html([chosen])


def test_completions_without_a_verdict_are_not_shown_as_wrong() -> None:
    assert choose_examples(run_with(example(8, "p", False, status="timeout"))) == []
    assert choose_examples(run_with()) == []


def test_model_text_is_escaped_and_its_controls_are_written_out() -> None:
    hostile = example(
        8,
        "p",
        True,
        completion="</pre><script>x</script>\x1b[2J",
        prompt="<img onerror=x>",
        level='"><b>',
    )
    html = examples_html(choose_examples(run_with(hostile)))
    assert "<script" not in html
    assert "<img" not in html
    assert "<b>" not in html
    assert "&lt;/pre&gt;&lt;script&gt;x&lt;/script&gt;\\x1b[2J" in html


def test_a_long_completion_keeps_its_ends_and_says_what_was_left_out() -> None:
    long = example(8, "p", True, completion="a" * 450 + "b" * 1000 + "c" * 450)
    html = examples_html(choose_examples(run_with(long)))
    assert "a" * 450 in html
    assert "c" * 450 in html
    assert "b" not in html.split("<pre>")[1].replace('class="note"', "").split("left out")[0]
    assert "1000 characters left out" in html


def test_an_empty_completion_and_a_chat_prompt_are_shown() -> None:
    chat = [{"role": "user", "content": "<1+1?>"}]
    html = examples_html(
        choose_examples(run_with(example(8, "p", False, completion="", prompt=chat)))
    )
    assert "(empty)" in html
    assert "&lt;1+1?&gt;" in html
