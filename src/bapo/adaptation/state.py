"""Prompts and groups as plain trees, and back, without loss.

A tree holds dicts, lists, str, int, float, bool, None and NumPy arrays. The tokens of all groups
are laid end to end in one array per kind, so that a checkpoint of thousands of groups has a few
large arrays and not hundreds of thousands of small ones.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

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

Tree = dict[str, Any]


def prompt_to_tree(prompt: Prompt) -> Tree:
    """A prompt as a tree; chat turns become `[role, content]` pairs, pictures their references."""
    content = prompt.content
    return {
        "prompt_id": prompt.prompt_id,
        "content": content
        if isinstance(content, str)
        else [[message.role, message.content] for message in content],
        "columns": dict(prompt.columns),
        "level": prompt.level,
        "images": [
            [image.kind.value, image.source, image.detail, image.blank] for image in prompt.images
        ],
    }


def prompt_from_tree(tree: Mapping[str, Any]) -> Prompt:
    """The prompt that `prompt_to_tree` wrote."""
    content: Any = tree["content"]
    if not isinstance(content, str):
        content = tuple(ChatMessage(role, text) for role, text in content)
    images = tuple(
        ImageReference(ImageKind(kind), source, detail, blank)
        for kind, source, detail, blank in tree["images"]
    )
    return Prompt(tree["prompt_id"], content, dict(tree["columns"]), tree["level"], images)


def groups_to_tree(groups: Sequence[Group]) -> Tree:
    """Groups, of any sizes, as one tree.

    Args:
        groups: N groups with C completions of T tokens in all.

    Returns:
        Lists of N prompts and C texts, arrays of N, C and T numbers.
    """
    rollouts = [group.rollout for group in groups]
    completions = [completion for rollout in rollouts for completion in rollout.completions]
    verdicts = [verdict for group in groups for verdict in group.verdicts]
    return {
        "prompts": [prompt_to_tree(rollout.prompt) for rollout in rollouts],
        "prompt_lengths": _integers(len(rollout.prompt_token_ids) for rollout in rollouts),
        "prompt_token_ids": _joined([r.prompt_token_ids for r in rollouts], np.int32),
        "group_sizes": _integers(group.size for group in groups),
        "policy_versions": _integers(rollout.policy_version for rollout in rollouts),
        "steps": _integers(rollout.step for rollout in rollouts),
        "temperatures": _numbers(rollout.temperature for rollout in rollouts),
        "lengths": _integers(len(completion.token_ids) for completion in completions),
        "token_ids": _joined([c.token_ids for c in completions], np.int32),
        "behavior_logps": _joined([c.behavior_logps for c in completions], np.float32),
        "loss_mask": _joined([c.loss_mask for c in completions], np.bool_),
        "finish_reasons": [completion.finish_reason.value for completion in completions],
        "texts": [completion.text for completion in completions],
        "correct": np.array([verdict.correct for verdict in verdicts], np.bool_),
        "scores": _numbers(verdict.score for verdict in verdicts),
        "statuses": [verdict.status.value for verdict in verdicts],
        "milliseconds": _numbers(verdict.milliseconds for verdict in verdicts),
        "details": [verdict.detail for verdict in verdicts],
    }


def groups_from_tree(tree: Mapping[str, Any]) -> list[Group]:
    """The groups that `groups_to_tree` wrote; they own their arrays.

    Raises:
        ValueError: The arrays do not fit together: no run has written this.
    """
    _check(tree)
    completions, verdicts = _completions(tree), _verdicts(tree)
    prompt_tokens = _parts(tree["prompt_token_ids"], tree["prompt_lengths"])
    return [
        Group(
            Rollout(
                prompt=prompt_from_tree(prompt),
                prompt_token_ids=next(prompt_tokens),
                completions=tuple(next(completions) for _ in range(size)),
                policy_version=version,
                step=step,
                temperature=temperature,
            ),
            tuple(next(verdicts) for _ in range(size)),
        )
        for prompt, size, version, step, temperature in zip(
            tree["prompts"],
            tree["group_sizes"].tolist(),
            tree["policy_versions"].tolist(),
            tree["steps"].tolist(),
            tree["temperatures"].tolist(),
            strict=True,
        )
    ]


def _check(tree: Mapping[str, Any]) -> None:
    """Raises a `ValueError` where arrays have another type or other lengths than they say."""
    completions = int(tree["group_sizes"].sum())
    tokens, prompt_tokens = int(tree["lengths"].sum()), int(tree["prompt_lengths"].sum())
    groups = len(tree["prompts"])
    expected: dict[str, tuple[npt.DTypeLike, int]] = {
        "group_sizes": (np.int64, groups),
        "prompt_lengths": (np.int64, groups),
        "prompt_token_ids": (np.int32, prompt_tokens),
        "policy_versions": (np.int64, groups),
        "steps": (np.int64, groups),
        "temperatures": (np.float64, groups),
        "lengths": (np.int64, completions),
        "token_ids": (np.int32, tokens),
        "behavior_logps": (np.float32, tokens),
        "loss_mask": (np.bool_, tokens),
        "correct": (np.bool_, completions),
        "scores": (np.float64, completions),
        "milliseconds": (np.float64, completions),
    }
    for name, (dtype, count) in expected.items():
        if tree[name].dtype != dtype or tree[name].shape != (count,):
            raise ValueError(f"'{name}' is {tree[name].dtype} {tree[name].shape}")
    if groups and min(tree["group_sizes"].min(), tree["lengths"].min()) < 1:
        raise ValueError("a group or a completion is empty")
    if any(len(tree[name]) != completions for name in ("finish_reasons", "texts", "statuses")):
        raise ValueError("texts or verdicts are missing")


def _completions(tree: Mapping[str, Any]) -> Iterator[Completion]:
    lengths = tree["lengths"]
    columns = zip(
        _parts(tree["token_ids"], lengths),
        _parts(tree["behavior_logps"], lengths),
        _parts(tree["loss_mask"], lengths),
        tree["finish_reasons"],
        tree["texts"],
        strict=True,
    )
    for token_ids, logps, mask, reason, text in columns:
        yield Completion(token_ids, logps, mask, FinishReason(reason), text)


def _verdicts(tree: Mapping[str, Any]) -> Iterator[Verdict]:
    columns = zip(
        tree["correct"].tolist(),
        tree["scores"].tolist(),
        tree["statuses"],
        tree["milliseconds"].tolist(),
        tree["details"],
        strict=True,
    )
    for correct, score, status, milliseconds, detail in columns:
        yield Verdict(correct, score, VerdictStatus(status), milliseconds, detail)


def _integers(values: Iterable[int]) -> npt.NDArray[np.int64]:
    return np.fromiter(values, np.int64)


def _numbers(values: Iterable[float]) -> npt.NDArray[np.float64]:
    return np.fromiter(values, np.float64)


def _joined(arrays: Sequence[npt.NDArray[Any]], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """The arrays end to end; an empty array of the right type where there are none."""
    return np.concatenate([np.empty(0, dtype), *arrays]).astype(dtype, copy=False)


def _parts(joined: npt.NDArray[Any], lengths: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[Any]]:
    """Copies of the pieces, so that a group that outlives the others does not hold their memory."""
    start = 0
    for length in cast("list[int]", lengths.tolist()):
        yield joined[start : start + length].copy()
        start += length
