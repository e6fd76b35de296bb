"""Groups in the form that the reuse buffer keeps: a few arrays and one run of bytes for each.

A `Group` is dozens of small objects, which take more memory than what they say. Packed, the tokens
of all completions lie end to end, numbers and lengths stand in one table with a row for each
completion, masks are bits and absent where every token takes part, and texts are UTF-8 in one run.
A `Group` is made of it when it is drawn; nothing is lost on the way, not a bit.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, cast
from weakref import ref

import numpy as np
import numpy.typing as npt

from bapo.types import (
    Completion,
    FinishReason,
    FloatArray,
    Group,
    IntArray,
    Prompt,
    Rollout,
    Verdict,
    VerdictStatus,
)

_REASONS = tuple(FinishReason)
_STATUSES = tuple(VerdictStatus)
"""What the numbers in a row stand for; they are in memory only, never in a file."""

ROW = np.dtype(
    [
        ("tokens", np.int32),
        ("text_bytes", np.int32),
        ("detail_bytes", np.int32),
        ("finish_reason", np.uint8),
        ("status", np.uint8),
        ("correct", np.bool_),
        ("score", np.float64),
        ("milliseconds", np.float64),
    ]
)
Rows = npt.NDArray[np.void]
Mask = npt.NDArray[np.bool_]

# A model may write half of a surrogate pair, and a text with it must survive as well.
_SURROGATES = "surrogatepass"


@dataclass(slots=True, eq=False)
class PackedGroup:
    """A group of G completions with T tokens in all.

    Attributes:
        prompt: The problem; the data set's own record, not a copy.
        policy_version: As in `Rollout`.
        step: Likewise.
        temperature: Likewise.
        prompt_token_ids: `(P,)` the prompt as the model read it.
        token_ids: `(T,)` of all completions, end to end.
        behavior_logps: `(T,)` likewise.
        mask_bits: The loss mask of the T tokens, eight to a byte; None where it is all True.
        rows: `(G,)` of `ROW`: lengths, numbers and what the verifier said.
        utf8: The texts of all completions in UTF-8, then the details of all verdicts.
    """

    prompt: Prompt
    policy_version: int
    step: int
    temperature: float
    prompt_token_ids: IntArray
    token_ids: IntArray
    behavior_logps: FloatArray
    mask_bits: npt.NDArray[np.uint8] | None
    rows: Rows
    utf8: bytes
    _unpacked: "ref[Group] | None" = None

    @property
    def prompt_id(self) -> str:
        """The prompt's stable name."""
        return self.prompt.prompt_id

    @property
    def size(self) -> int:
        """The number of completions, G."""
        return len(self.rows)

    @property
    def correctness_rate(self) -> float:
        """Share of correct completions; the very number that the group itself gives."""
        return int(self.rows["correct"].sum()) / len(self.rows)

    @property
    def loss_mask(self) -> Mask:
        """`(T,)` True where the token takes part in the loss."""
        count = len(self.token_ids)
        if self.mask_bits is None:
            return np.ones(count, np.bool_)
        return np.unpackbits(self.mask_bits, count=count).view(np.bool_)

    @property
    def strings(self) -> tuple[list[str], list[str]]:
        """The text of each completion, and the detail of each verdict."""
        lengths = [*self.rows["text_bytes"].tolist(), *self.rows["detail_bytes"].tolist()]
        ends = list(accumulate(lengths, initial=0))
        strings = [self.utf8[a:b].decode(errors=_SURROGATES) for a, b in pairwise(ends)]
        return strings[: self.size], strings[self.size :]

    @property
    def joined_strings(self) -> str:
        """The texts and details, end to end."""
        return self.utf8.decode(errors=_SURROGATES)

    @property
    def group(self) -> Group:
        """The group as records: the same object for as long as anybody holds it.

        That makes a group of the buffer its own key, as those that a step refuses are.
        """
        group = None if self._unpacked is None else self._unpacked()
        if group is None:
            group = unpack(self)
            self._unpacked = ref(group)
        return group


def pack(group: Group) -> PackedGroup:
    """Packs a group; as long as it is held elsewhere, it is the one that is given back."""
    rollout = group.rollout
    completions = rollout.completions
    texts = encoded(completion.text for completion in completions)
    details = encoded(verdict.detail for verdict in group.verdicts)
    lengths = [len(completion.token_ids) for completion in completions]
    reasons = [completion.finish_reason for completion in completions]
    return PackedGroup(
        prompt=rollout.prompt,
        policy_version=rollout.policy_version,
        step=rollout.step,
        temperature=rollout.temperature,
        prompt_token_ids=rollout.prompt_token_ids.copy(),
        token_ids=np.concatenate([completion.token_ids for completion in completions]),
        behavior_logps=np.concatenate([completion.behavior_logps for completion in completions]),
        mask_bits=pack_mask(np.concatenate([completion.loss_mask for completion in completions])),
        rows=make_rows(lengths, texts, details, reasons, group.verdicts),
        utf8=b"".join([*texts, *details]),
        _unpacked=ref(group),
    )


def unpack(packed: PackedGroup) -> Group:
    """The group that was packed, made anew; its completions own their arrays."""
    rows = packed.rows
    texts, details = packed.strings
    lengths = rows["tokens"]
    completions = zip(
        _pieces(packed.token_ids, lengths),
        _pieces(packed.behavior_logps, lengths),
        _pieces(packed.loss_mask, lengths),
        finish_reasons(rows),
        texts,
        strict=True,
    )
    verdicts = zip(
        rows["correct"].tolist(),
        rows["score"].tolist(),
        statuses(rows),
        rows["milliseconds"].tolist(),
        details,
        strict=True,
    )
    return Group(
        Rollout(
            prompt=packed.prompt,
            prompt_token_ids=packed.prompt_token_ids.copy(),
            completions=tuple(
                Completion(ids, logps, mask, reason, text)
                for ids, logps, mask, reason, text in completions
            ),
            policy_version=packed.policy_version,
            step=packed.step,
            temperature=packed.temperature,
        ),
        tuple(
            Verdict(correct, score, status, milliseconds, detail)
            for correct, score, status, milliseconds, detail in verdicts
        ),
    )


def make_rows(
    lengths: Iterable[int],
    texts: Iterable[bytes],
    details: Iterable[bytes],
    reasons: Iterable[FinishReason],
    verdicts: Iterable[Verdict],
) -> Rows:
    """The rows of C completions, from C of each.

    Raises:
        ValueError: There are not as many of one as of another.
    """
    return np.array(
        [
            (
                length,
                len(text),
                len(detail),
                _REASONS.index(reason),
                _STATUSES.index(verdict.status),
                verdict.correct,
                verdict.score,
                verdict.milliseconds,
            )
            for length, text, detail, reason, verdict in zip(
                lengths, texts, details, reasons, verdicts, strict=True
            )
        ],
        ROW,
    )


def pack_mask(mask: Mask) -> npt.NDArray[np.uint8] | None:
    """A mask as bits; None where it is all True."""
    return None if mask.all() else np.packbits(mask)


def finish_reasons(rows: Rows) -> list[FinishReason]:
    """Why each completion ended."""
    return [_REASONS[code] for code in cast("list[int]", rows["finish_reason"].tolist())]


def statuses(rows: Rows) -> list[VerdictStatus]:
    """What became of each attempt to verify."""
    return [_STATUSES[code] for code in cast("list[int]", rows["status"].tolist())]


def encoded(texts: Iterable[str]) -> list[bytes]:
    """Texts as they are kept."""
    return [text.encode(errors=_SURROGATES) for text in texts]


def _pieces(line: npt.NDArray[Any], lengths: npt.NDArray[np.int32]) -> Iterator[npt.NDArray[Any]]:
    """Copies of the pieces, so that one that outlives the others does not hold their memory."""
    start = 0
    for length in cast("list[int]", lengths.tolist()):
        yield line[start : start + length].copy()
        start += length
