"""A comparison that misses nothing: every kind of difference is found and named."""

import numpy as np
import pytest
import torch

from bapo.selftest.comparing import tree_difference, without_seconds


def test_equal_trees_have_no_difference():
    def tree():
        return {
            "list": [1, 2.5, None, "text", True],
            "pair": (1, -0.0),
            "array": np.array([1.0, np.nan], np.float32),
            "tensor": torch.tensor([[1, 2]]),
        }

    assert tree_difference(tree(), tree(), "tree") is None


@pytest.mark.parametrize(
    ("left", "right", "said"),
    [
        ({"a": 1}, {"a": 2}, "t/a: 1 against 2"),
        ({"a": 1}, {"a": 1.0}, "t/a: int against float"),
        ({"a": 1}, {"a": True}, "t/a: int against bool"),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, "t: the names ['a', 'b'] against ['b', 'a']"),
        ({"a": 1}, {"a": 1, "b": 2}, "t: the names ['a'] against ['a', 'b']"),
        ([1, [2, 3]], [1, [2, 4]], "t/1/1: 3 against 4"),
        ([1], [1, 2], "t: 1 items against 2"),
        ([1], (1,), "t: list against tuple"),
        (np.array([0.0]), np.array([-0.0]), "t differs"),
        (np.array([1, 2]), np.array([[1, 2]]), "t: int64(2,) against int64(1, 2)"),
        (np.array([1], np.int32), np.array([1]), "t: int32(1,) against int64(1,)"),
        (torch.tensor([0.0]), torch.tensor([-0.0]), "t differs"),
        (torch.tensor([1.0]), torch.tensor([1.0 + 2**-23]), "t differs"),
        (torch.tensor([1.0]), np.array([1.0], np.float32), "t: Tensor against ndarray"),
    ],
)
def test_a_difference_is_found_and_named(left, right, said):
    assert tree_difference(left, right, "t") == said


def test_what_a_clock_said_is_left_out_and_nothing_else(tmp_path):
    line = '{"step": 1, "seconds": 2.5, "seconds_rollout": 1, "milliseconds": 3, "rollouts": 8}'
    (tmp_path / "lines.jsonl").write_text(f"{line}\n{line}\n")
    assert without_seconds(tmp_path / "lines.jsonl") == [{"step": 1, "rollouts": 8}] * 2
