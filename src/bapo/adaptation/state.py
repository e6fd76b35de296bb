"""Prompts and groups as plain trees, and back, without loss.

A tree holds dicts, lists, str, int, float, bool, None and NumPy arrays. The tokens of all groups
are laid end to end in one array per kind, so that a checkpoint of thousands of groups has a few
large arrays and not hundreds of thousands of small ones. Groups come and go packed: no records are
made of them on the way.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bapo.adaptation.packed import (
    ROW,
    PackedGroup,
    encoded,
    finish_reasons,
    make_rows,
    pack_mask,
    statuses,
)
from bapo.types import (
    ChatMessage,
    FinishReason,
    ImageKind,
    ImageReference,
    Prompt,
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


def groups_to_tree(groups: Sequence[PackedGroup]) -> Tree:
    """Groups, of any sizes, as one tree.

    Args:
        groups: N groups with C completions of T tokens in all.

    Returns:
        Lists of N prompts and C texts, arrays of N, C and T numbers.
    """
    rows = _joined([group.rows for group in groups], ROW)
    strings = [group.strings for group in groups]
    return {
        "prompts": [prompt_to_tree(group.prompt) for group in groups],
        "prompt_lengths": _integers(len(group.prompt_token_ids) for group in groups),
        "prompt_token_ids": _joined([group.prompt_token_ids for group in groups], np.int32),
        "group_sizes": _integers(group.size for group in groups),
        "policy_versions": _integers(group.policy_version for group in groups),
        "steps": _integers(group.step for group in groups),
        "temperatures": np.fromiter((group.temperature for group in groups), np.float64),
        "lengths": rows["tokens"].astype(np.int64),
        "token_ids": _joined([group.token_ids for group in groups], np.int32),
        "behavior_logps": _joined([group.behavior_logps for group in groups], np.float32),
        "loss_mask": _joined([group.loss_mask for group in groups], np.bool_),
        "finish_reasons": [reason.value for reason in finish_reasons(rows)],
        "texts": [text for texts, _ in strings for text in texts],
        "correct": rows["correct"].copy(),
        "scores": rows["score"].copy(),
        "statuses": [status.value for status in statuses(rows)],
        "milliseconds": rows["milliseconds"].copy(),
        "details": [detail for _, details in strings for detail in details],
    }


def groups_from_tree(tree: Mapping[str, Any]) -> list[PackedGroup]:
    """The groups that `groups_to_tree` wrote; they own their arrays.

    Raises:
        ValueError: The arrays do not fit together: no run has written this.
    """
    _check(tree)
    texts, details = encoded(tree["texts"]), encoded(tree["details"])
    reasons = map(FinishReason, tree["finish_reasons"])
    rows = make_rows(tree["lengths"].tolist(), texts, details, reasons, _verdicts(tree))
    asked, answers = _ends(tree["prompt_lengths"]), _ends(tree["group_sizes"])
    tokens = _ends(tree["lengths"])[answers]
    groups: list[PackedGroup] = []
    for number, prompt in enumerate(tree["prompts"]):
        of_prompt, mine, said = (
            slice(*ends[number : number + 2].tolist()) for ends in (asked, answers, tokens)
        )
        groups.append(
            PackedGroup(
                prompt=prompt_from_tree(prompt),
                policy_version=int(tree["policy_versions"][number]),
                step=int(tree["steps"][number]),
                temperature=float(tree["temperatures"][number]),
                prompt_token_ids=tree["prompt_token_ids"][of_prompt].copy(),
                token_ids=tree["token_ids"][said].copy(),
                behavior_logps=tree["behavior_logps"][said].copy(),
                mask_bits=pack_mask(tree["loss_mask"][said]),
                rows=rows[mine].copy(),
                utf8=b"".join([*texts[mine], *details[mine]]),
            )
        )
    return groups


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


def _joined(arrays: Sequence[npt.NDArray[Any]], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """The arrays end to end; an empty array of the right type where there are none."""
    return np.concatenate([np.empty(0, dtype), *arrays]).astype(dtype, copy=False)


def _ends(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Where each of the pieces of a line begins, and where the last one ends."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
