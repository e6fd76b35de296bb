"""How many bytes a buffered prompt or group takes: what the limit on the buffers counts.

Counted once, when it enters, from what it holds and not from how Python happens to keep it, so that
a group has the same size before a checkpoint and after. Texts count as the longer of what a file
and what memory needs; on top of the content comes what Python's objects take, as measured.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from bapo.types import Completion, Group, Prompt

_PROMPT_OVERHEAD = 1024
_COMPLETION_OVERHEAD = 640
"""Bytes of Python objects beside the content: of a prompt or group, and of each completion."""

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


def group_bytes(group: Group) -> int:
    """The bytes of a group: its prompt, its completions with all their arrays, its verdicts."""
    rollout = group.rollout
    return (
        _PROMPT_OVERHEAD
        + prompt_bytes(rollout.prompt)
        + rollout.prompt_token_ids.nbytes
        + sum(_completion_bytes(completion) for completion in rollout.completions)
        + sum(_text_bytes(verdict.detail) for verdict in group.verdicts)
    )


def _completion_bytes(completion: Completion) -> int:
    arrays = (completion.token_ids, completion.behavior_logps, completion.loss_mask)
    return (
        _COMPLETION_OVERHEAD + sum(array.nbytes for array in arrays) + _text_bytes(completion.text)
    )


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
