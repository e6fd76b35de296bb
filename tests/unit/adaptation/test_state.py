import numpy as np
import pytest

from bapo.adaptation import groups_from_tree, groups_to_tree, prompt_from_tree, prompt_to_tree
from bapo.adaptation.packed import pack, unpack
from bapo.types import (
    ChatMessage,
    FinishReason,
    Group,
    ImageKind,
    ImageReference,
    Prompt,
    Rollout,
    Verdict,
    VerdictStatus,
)
from tests.builders import (
    make_completion,
    make_group,
    make_prompt,
    make_rollout,
    through_disk,
)


def assert_same_group(left, right):
    assert left.rollout.prompt == right.rollout.prompt
    assert left.verdicts == right.verdicts
    for name in ("policy_version", "step", "temperature"):
        assert getattr(left.rollout, name) == getattr(right.rollout, name)
        assert type(getattr(left.rollout, name)) is type(getattr(right.rollout, name))
    assert_same_array(left.rollout.prompt_token_ids, right.rollout.prompt_token_ids)
    assert len(left.rollout.completions) == len(right.rollout.completions)
    for one, other in zip(left.rollout.completions, right.rollout.completions, strict=True):
        assert (one.text, one.finish_reason) == (other.text, other.finish_reason)
        for name in ("token_ids", "behavior_logps", "loss_mask"):
            assert_same_array(getattr(one, name), getattr(other, name))


def assert_same_array(left, right):
    assert left.dtype == right.dtype
    assert left.tobytes() == right.tobytes()


def packed_tree(groups):
    return groups_to_tree([pack(group) for group in groups])


def unpacked(tree):
    return [unpack(packed) for packed in groups_from_tree(tree)]


def ragged_group():
    """Every field away from its default: one token, a masked one, an odd text, all statuses."""
    completions = [
        make_completion([7], logps=-0.0),
        make_completion([1, 2, 3, 4], logps=[-1e-30, -3.5, -0.1, -700.0], text='né "☃" \n'),
        make_completion([9, 9], loss_mask=[True, False], finish_reason=FinishReason.LENGTH),
        make_completion([2, 1], text=""),
    ]
    rollout = Rollout(
        prompt=Prompt(
            "q/1",
            "2+2=",
            {"target": 4, "numbers": [2, 2], "nested": {"x": None}},
            "L1",
            (
                ImageReference(ImageKind.FILE, "figures/a.png"),
                ImageReference(ImageKind.CELL, "rows.parquet", '{"row": 3}', blank=True),
            ),
        ),
        prompt_token_ids=np.array([11, 12, 13], np.int32),
        completions=tuple(completions),
        policy_version=41,
        step=42,
        temperature=0.7,
    )
    verdicts = (
        Verdict(True, 1.25, VerdictStatus.OK, 0.1),
        Verdict(False, 1 / 3, VerdictStatus.INVALID, 12.75, "returned None"),
        Verdict(False, 0.0, VerdictStatus.TIMEOUT, 5000.0, "after 5 s"),
        Verdict(False, 0.0, VerdictStatus.ERROR, 0.5, "ZeroDivisionError"),
    )
    return Group(rollout, verdicts)


def test_groups_of_different_sizes_survive_exactly_and_in_order():
    groups = [ragged_group(), make_group("b", "10"), make_group("c", "1", tokens=1)]
    restored = unpacked(through_disk(packed_tree(groups)))
    assert len(restored) == 3
    for before, after in zip(groups, restored, strict=True):
        assert_same_group(before, after)


def test_no_groups_survive_with_the_right_array_types():
    tree = through_disk(packed_tree([]))
    assert unpacked(tree) == []
    assert (tree["token_ids"].dtype, tree["behavior_logps"].dtype) == (np.int32, np.float32)


def test_a_tree_has_as_many_arrays_for_many_groups_as_for_one():
    def count(groups):
        return sum(isinstance(value, np.ndarray) for value in packed_tree(groups).values())

    assert count([make_group()] * 50) == count([make_group()])


def test_a_restored_group_owns_its_arrays():
    tree = packed_tree([make_group("a", "10"), make_group("b", "10")])
    restored = unpacked(tree)
    tree["token_ids"][:] = 0
    assert restored[0].rollout.completions[0].token_ids.tolist() == [5, 5, 5]
    assert restored[0].rollout.completions[0].token_ids.base is None


@pytest.mark.parametrize(
    "content", ["plain", "", (ChatMessage("system", "be brief"), ChatMessage("user", "2+2?"))]
)
def test_a_prompt_survives_as_text_or_as_a_chat(content):
    prompt = Prompt("p", content, {"answer": "4", "numbers": [1, 2]}, "easy")
    assert prompt_from_tree(through_disk(prompt_to_tree(prompt))) == prompt


def test_builders_make_what_they_say():
    group = make_group(make_prompt("a", level="CD-3"), 0.25, group_size=8, version=3, step=4)
    assert (group.size, group.correctness_rate, group.is_verified) == (8, 0.25, True)
    assert (group.rollout.policy_version, group.rollout.step) == (3, 4)
    assert not make_group("a", "1t").is_verified
    assert [len(c.token_ids) for c in make_rollout(group_size=2, tokens=5).completions] == [5, 5]
    with pytest.raises(ValueError, match="whole number"):
        make_group("a", 0.3, group_size=8)
