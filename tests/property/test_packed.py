"""A packed group is the group: every field of every record comes back to the bit."""

from dataclasses import fields, is_dataclass
from enum import Enum

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bapo.adaptation import groups_from_tree, groups_to_tree
from bapo.adaptation.packed import pack, unpack
from bapo.adaptation.sizes import group_bytes
from bapo.types import (
    ChatMessage,
    Completion,
    FinishReason,
    Group,
    ImageKind,
    ImageReference,
    Prompt,
    Rollout,
    Verdict,
    VerdictStatus,
)
from tests.builders import through_disk

many = settings(max_examples=100, deadline=None)
# With halves of surrogate pairs, which a text may hold and UTF-8 does not know.
texts = st.text(st.characters(exclude_categories=()), max_size=12) | st.just("")
numbers = st.floats(allow_nan=False, allow_infinity=False)
token_ids = st.integers(0, 2**31 - 1)

prompts = st.builds(
    Prompt,
    texts,
    texts | st.lists(st.builds(ChatMessage, texts, texts), min_size=1, max_size=3).map(tuple),
    st.dictionaries(st.text(max_size=4), texts | st.integers() | st.none() | st.lists(numbers)),
    texts,
    st.lists(
        st.builds(ImageReference, st.sampled_from(ImageKind), texts, texts, st.booleans()),
        max_size=2,
    ).map(tuple),
)


def array(values, dtype):
    return st.lists(values, max_size=9).map(lambda one: np.array(one, dtype))


@st.composite
def completions(draw):
    count = draw(st.integers(1, 11))
    size = {"min_size": count, "max_size": count}
    masks = st.lists(st.booleans(), **size) | st.just([True] * count)
    return Completion(
        np.array(draw(st.lists(token_ids, **size)), np.int32),
        np.array(draw(st.lists(st.floats(width=32), **size)), np.float32),
        np.array(draw(masks), np.bool_),
        draw(st.sampled_from(FinishReason)),
        draw(texts),
    )


@st.composite
def groups(draw):
    answers = tuple(draw(st.lists(completions(), min_size=1, max_size=5)))
    rollout = Rollout(
        draw(prompts),
        draw(array(token_ids, np.int32)),
        answers,
        draw(st.integers(0, 2**40)),
        draw(st.integers(0, 2**40)),
        draw(st.floats(0.01, 2.0)),
    )
    verdicts = st.builds(
        Verdict, st.booleans(), numbers, st.sampled_from(VerdictStatus), numbers, texts
    )
    size = {"min_size": len(answers), "max_size": len(answers)}
    return Group(rollout, tuple(draw(st.lists(verdicts, **size))))


def exactly(value):
    """A record in which nothing is equal but what has the same type and the same bits."""
    if is_dataclass(value):
        return type(value), [exactly(getattr(value, field.name)) for field in fields(value)]
    if isinstance(value, np.ndarray):
        return value.dtype, value.shape, value.tobytes(), value.base is None
    if isinstance(value, (tuple, list)):
        return type(value), [exactly(one) for one in value]
    if isinstance(value, dict):
        return [(exactly(key), exactly(one)) for key, one in value.items()]
    assert value is None or isinstance(value, (Enum, str, int, float)), repr(value)
    return type(value), value.hex() if isinstance(value, float) else value


@many
@given(groups())
def test_a_group_comes_out_as_it_went_in(group):
    packed = pack(group)
    assert exactly(unpack(packed)) == exactly(group)
    assert (packed.prompt_id, packed.size) == (group.prompt_id, group.size)
    assert packed.correctness_rate == group.correctness_rate


@many
@given(st.lists(groups(), max_size=4))
def test_groups_and_what_they_are_counted_as_survive_a_checkpoint(several):
    packed = [pack(group) for group in several]
    restored = groups_from_tree(through_disk(groups_to_tree(packed)))
    assert [exactly(unpack(one)) for one in restored] == [exactly(group) for group in several]
    assert [group_bytes(one) for one in restored] == [group_bytes(one) for one in packed]
