"""What a group is counted as holds against what it takes in memory and in a checkpoint."""

import tracemalloc

import numpy as np
import pytest

from bapo.adaptation import groups_to_tree
from bapo.adaptation.sizes import group_bytes, prompt_bytes
from bapo.training.state_files import write_tree
from bapo.types import ChatMessage, Group, Prompt
from tests.builders import make_completion, make_prompt, make_rollout, make_verdicts

COUNT = 100


def made(number, completions, tokens, text):
    """A group of which no part is shared with another one's."""
    prompt = Prompt(f"row-{number}", f"question {number}" * 9, {"answer": f"{number}"}, "hard")
    answers = [
        make_completion([number] * tokens, text=f"{text}{number}/{place}" + text * (tokens - 1))
        for place in range(completions)
    ]
    return Group(make_rollout(prompt, completions=answers), make_verdicts("1" * completions))


@pytest.mark.parametrize(
    ("completions", "tokens", "text"),
    [(2, 1, "a"), (8, 20, "word"), (8, 900, "word"), (4, 300, "é漢🙂"), (64, 20, "a")],
)
def test_groups_take_no_more_than_they_are_counted_as(tmp_path, completions, tokens, text):
    made(0, completions, tokens, text)  # what the first one imports is not its own
    tracemalloc.start()
    groups = [made(1000 + number, completions, tokens, text) for number in range(COUNT)]
    memory, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    counted = sum(map(group_bytes, groups))
    assert 0.5 * counted < memory < 1.02 * counted
    write_tree(tmp_path, "groups", groups_to_tree(groups))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < counted


def test_the_columns_and_turns_of_a_prompt_are_counted():
    plain = prompt_bytes(make_prompt("p"))
    for columns in ({"text": "x" * 9000}, {"nested": [{"x" * 9000: 1}]}, {"a": np.zeros(1125)}):
        assert 9000 < prompt_bytes(make_prompt("p", columns=columns)) - plain < 9200
    chat = Prompt("p", (ChatMessage("user", "x" * 9000), ChatMessage("assistant", "")), {})
    assert prompt_bytes(chat) > 9000
