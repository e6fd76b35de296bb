"""What is held out does not depend on where a row stands."""

import json
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from bapo.tasks.dataset import build_dataset

texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
    str.strip
)
rows = st.lists(
    st.builds(
        lambda text, answer: {"prompt": f"say {text}", "answer": answer}, texts, st.integers()
    ),
    max_size=30,
)
# Enough rows that both sides always hold some.
BASE = [{"prompt": f"base {number}", "answer": number} for number in range(60)]


def sides(content, folder, **options):
    path = Path(folder) / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
    task = build_dataset({"path": str(path), **options})
    return task.training_prompts(), task.evaluation_prompts(10**9)


def unlike(content):
    """Rows that differ from one another."""
    return [*{json.dumps(row): row for row in content}.values()]


@given(rows, st.randoms(use_true_random=False), st.sampled_from([0.1, 0.3, 0.8]))
@settings(max_examples=40, deadline=None)
def test_rows_in_another_order_stay_on_their_side(extra, random, share):
    content = unlike([*BASE, *extra])
    turned = random.sample(content, len(content))
    with tempfile.TemporaryDirectory() as folder:
        training, held_out = sides(content, folder, evaluation_share=share)
        training_turned, held_out_turned = sides(turned, folder, evaluation_share=share)
    assert {p.prompt_id for p in training} == {p.prompt_id for p in training_turned}
    assert held_out == held_out_turned
    assert len(training) + len(held_out) == len(content)
    assert not {p.prompt_id for p in training} & {p.prompt_id for p in held_out}
    assert not {p.content for p in training} & {p.content for p in held_out}


@given(rows)
@settings(max_examples=30, deadline=None)
def test_rows_added_later_move_no_other_row(extra):
    with tempfile.TemporaryDirectory() as folder:
        before, held_out_before = sides(BASE, folder)
        after, held_out_after = sides(unlike([*extra, *BASE]), folder)
    assert set(ids(before)) <= set(ids(after))
    assert set(ids(held_out_before)) <= set(ids(held_out_after))


def ids(prompts):
    return [prompt.prompt_id for prompt in prompts]
