"""What a group is counted as holds against what it takes in memory and in a checkpoint."""

import gc
import tracemalloc

import numpy as np
import pytest

from bapo.adaptation import ReuseBuffer
from bapo.adaptation.sizes import prompt_bytes
from bapo.training.state_files import write_tree
from bapo.types import ChatMessage, Group, Prompt
from tests.builders import make_completion, make_prompt, make_rollout, make_verdicts

COUNT = 100


def made(prompt, number, completions, tokens, text, masked):
    """A group of which no part but the prompt is shared with another one's."""
    answers = [
        make_completion(
            [number] * tokens,
            text=f"{text}{number}/{place}" + text * (tokens - 1),
            loss_mask=[not masked] * tokens,
        )
        for place in range(completions)
    ]
    rollout = make_rollout(
        prompt, completions=answers, version=number, step=number, temperature=number / 1000
    )
    return Group(rollout, make_verdicts("1" + "0" * (completions - 1)))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("completions", "tokens", "text"),
    [(2, 1, "a"), (8, 20, "word"), (8, 900, "word"), (4, 300, "é漢🙂"), (64, 20, "a")],
)
def test_groups_take_what_they_are_counted_as_in_memory_or_in_a_file(
    tmp_path, completions, tokens, text, masked
):
    shape = completions, tokens, text, masked
    buffer = ReuseBuffer(window=10 * COUNT)
    buffer.observe(1, [made(make_prompt(), 1, *shape)], 10**9)  # what the first one imports
    before = buffer.bytes
    tracemalloc.start()
    prompts = [Prompt(f"{n}", f"question {n}" * 9, {"answer": f"{n}"}) for n in range(COUNT)]
    memory_of_prompts = traced()
    for number, prompt in enumerate(prompts, start=1000):
        buffer.observe(number, [made(prompt, number, *shape)], 10**9)
    memory = traced() - memory_of_prompts
    tracemalloc.stop()
    counted_of_prompts = sum(map(prompt_bytes, prompts))
    counted = buffer.bytes - before - counted_of_prompts
    write_tree(tmp_path, "groups", buffer.state_dict())
    written = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert memory_of_prompts < counted_of_prompts
    assert memory < counted
    assert written < buffer.bytes
    assert max(memory, written) > 0.95 * counted


def traced():
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def test_the_columns_and_turns_of_a_prompt_are_counted():
    plain = prompt_bytes(make_prompt("p"))
    for columns in ({"text": "x" * 9000}, {"nested": [{"x" * 9000: 1}]}, {"a": np.zeros(1125)}):
        assert 9000 < prompt_bytes(make_prompt("p", columns=columns)) - plain < 9200
    chat = Prompt("p", (ChatMessage("user", "x" * 9000), ChatMessage("assistant", "")), {})
    assert prompt_bytes(chat) > 9000
