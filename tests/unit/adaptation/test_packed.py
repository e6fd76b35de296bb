import gc

import numpy as np

from bapo.adaptation import Band, ReuseBuffer
from bapo.adaptation.packed import pack, unpack
from bapo.types import Group
from tests.builders import (
    make_completion,
    make_group,
    make_rollout,
    make_verdicts,
    through_disk,
)


def restored_buffer():
    """A buffer in which no group has ever been made."""
    buffer = ReuseBuffer(window=3)
    buffer.observe(1, [make_group("a", "10"), make_group("b", "1000")], 1_000_000)
    restored = ReuseBuffer(window=3)
    restored.load_state_dict(through_disk(buffer.state_dict()))
    return restored


def made_groups():
    gc.collect()
    return sum(isinstance(one, Group) for one in gc.get_objects())


def test_a_mask_takes_a_bit_for_each_token_and_nothing_where_all_take_part():
    masked = [make_completion([1] * 20, loss_mask=[False] + [True] * 19) for _ in range(2)]
    packed = pack(Group(make_rollout(completions=masked), make_verdicts("10")))
    assert packed.mask_bits.nbytes == 5  # 40 tokens
    assert packed.loss_mask.tolist() == ([False] + [True] * 19) * 2
    assert pack(make_group("a", "10")).mask_bits is None


def test_an_entry_is_the_same_group_for_as_long_as_anybody_holds_it():
    buffer = restored_buffer()
    first = buffer.eligible(2, Band(0.0, 1.0))[0].group
    assert buffer.eligible(2, Band(0.0, 1.0))[0].group is first
    assert buffer.groups[0].group is first
    assert buffer.groups[1].group is not first


def test_a_group_that_has_just_entered_is_not_made_again():
    group = make_group("a", "10")
    buffer = ReuseBuffer(window=3)
    buffer.observe(1, [group], 1_000_000)
    assert buffer.groups[0].group is group


def test_nobody_but_its_users_keeps_a_group_alive():
    before = made_groups()
    buffer = restored_buffer()
    held = [packed.group for packed in buffer.groups]
    assert made_groups() == before + 2
    del held
    assert made_groups() == before
    assert buffer.groups[0].group.prompt_id == "a"


def test_what_is_packed_is_a_copy_and_so_is_what_comes_out():
    group = make_group("a", "10")
    packed = pack(group)
    group.rollout.completions[0].token_ids[:] = 0
    group.rollout.prompt_token_ids[:] = 0
    first = unpack(packed)
    assert first.rollout.completions[0].token_ids.tolist() == [5, 5, 5]
    assert first.rollout.prompt_token_ids.tolist() == [3, 4]
    first.rollout.completions[0].behavior_logps[:] = 0
    assert unpack(packed).rollout.completions[0].behavior_logps.tolist() == [np.float32(-0.1)] * 3
