"""How many bytes a buffered prompt or group takes: what the limit on the buffers counts.

Counted once, when it enters, from what it holds, so that it has the same size before a checkpoint
and after. What counts is the more of what memory and what a file needs: of a group as a whole, of a
prompt for each of its texts. On top of the content comes what Python's objects take, as measured.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from bapo.adaptation.packed import PackedGroup
from bapo.types import Prompt

_PROMPT_OVERHEAD = 1024
_GROUP_OVERHEAD = 480
_ARRAY_OVERHEAD = 112
"""Bytes of Python objects beside the content: of a prompt, a packed group with its place in the
buffer, and an array."""

_WRITTEN_TOKEN = 9
_WRITTEN_COMPLETION = 56
"""Bytes in a checkpoint: of a token with its log-probability and mask, and of the numbers,
names and quotation marks of a completion and its verdict."""

_NUMBER = 32


def prompt_bytes(prompt: Prompt) -> int:
    """The bytes of a prompt, its columns included."""
    content = prompt.content
    turns = (
        _text_bytes(content)
        if isinstance(content, str)
        else sum(_PROMPT_OVERHEAD + _text_bytes(one.content) for one in content)
    )
    images = sum(
        _PROMPT_OVERHEAD + _text_bytes(one.source) + _text_bytes(one.detail)
        for one in prompt.images
    )
    own = _text_bytes(prompt.prompt_id) + _value_bytes(prompt.columns)
    return _PROMPT_OVERHEAD + own + turns + images


def group_bytes(group: PackedGroup) -> int:
    """The bytes of a buffered group, prompt included: in memory or in a file, the more of both."""
    arrays = (group.prompt_token_ids, group.token_ids, group.behavior_logps, group.rows)
    kept = _GROUP_OVERHEAD + len(group.utf8)
    kept += sum(_ARRAY_OVERHEAD + array.nbytes for array in arrays)
    if group.mask_bits is not None:
        kept += _ARRAY_OVERHEAD + group.mask_bits.nbytes
    written = (
        4 * len(group.prompt_token_ids)
        + _WRITTEN_TOKEN * len(group.token_ids)
        + _WRITTEN_COMPLETION * group.size
        + len(json.dumps(group.joined_strings))
    )
    return prompt_bytes(group.prompt) + max(kept, written)


def _text_bytes(text: str) -> int:
    written = len(json.dumps(text))
    return written if text.isascii() else max(written, 4 * len(text))


def _value_bytes(value: Any) -> int:
    """The bytes of a column's value: JSON values, arrays, or nested ones of either."""
    if isinstance(value, str):
        return _text_bytes(value)
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, Mapping):
        items = cast("Mapping[str, Any]", value).items()
        return _NUMBER + sum(_text_bytes(str(key)) + _value_bytes(item) for key, item in items)
    if isinstance(value, (list, tuple)):
        return _NUMBER + sum(_value_bytes(item) for item in cast("Sequence[Any]", value))
    return _NUMBER
