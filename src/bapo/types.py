"""The records that flow through a run: immutable, with no behaviour but what follows from them.

A `Rollout` is what an engine sampled for one prompt; a `Group` is a rollout with its verdicts.
Neither is ever split or changed after it is made, so a group may stand in a buffer, a batch and a
checkpoint at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float32]
Columns = Mapping[str, Any]


class Source(StrEnum):
    """Where a group in a training batch comes from (X1, X2, X3 of arXiv 2602.20722)."""

    FRESH = "fresh"
    RETRIED = "retried"
    REUSED = "reused"


class FinishReason(StrEnum):
    """Why a completion ended."""

    STOP = "stop"
    LENGTH = "length"


class VerdictStatus(StrEnum):
    """What became of the attempt to verify; only `OK` says anything about the answer."""

    OK = "ok"
    INVALID = "invalid"
    TIMEOUT = "timeout"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn of a chat prompt."""

    role: str
    content: str


class ImageKind(StrEnum):
    """What a picture is made from."""

    FILE = "file"
    CELL = "cell"
    DRAWN = "drawn"


@dataclass(frozen=True, slots=True)
class ImageReference:
    """A picture, named by what it can be made from again; no record ever holds its pixels.

    Attributes:
        kind: Where to look.
        source: The path of a picture file, the data set that holds it in a cell, or the task that
            draws it.
        detail: Which cell, or what is drawn, as JSON text; empty for a file.
        blank: Show a white picture of the same size in its place, for a blind baseline.
    """

    kind: ImageKind
    source: str
    detail: str = ""
    blank: bool = False


IMAGE_MARK = "<image>"
"""Stands in a prompt's text where a picture belongs, whatever the model's own token is."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One problem.

    Attributes:
        prompt_id: Stable name, unique in its data set; the key of both buffers and of the ledger.
        content: Plain text, or the turns of a chat to which the model's chat template is applied.
        columns: What the verifier is given besides the completion; JSON values only.
        level: The task's own difficulty label, for reports; may be empty.
        images: The pictures that the content shows, one for each `IMAGE_MARK` in it, in order.
    """

    prompt_id: str
    content: str | tuple[ChatMessage, ...]
    columns: Columns
    level: str = ""
    images: tuple[ImageReference, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Completion:
    """One sampled answer.

    Attributes:
        token_ids: `(T,)` the sampled tokens, the end token included if it was sampled; T >= 1.
        behavior_logps: `(T,)` log-probability of each token under the distribution it was sampled
            from, temperature included; at most 0.
        loss_mask: `(T,)` True where the token takes part in the loss.
        finish_reason: `STOP` at an end token or stop string, `LENGTH` at the limit of new tokens.
        text: The decoded tokens without special tokens and without the stop string.
    """

    token_ids: IntArray
    behavior_logps: FloatArray
    loss_mask: npt.NDArray[np.bool_]
    finish_reason: FinishReason
    text: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verifier said of one completion.

    Attributes:
        correct: Whether the answer is right; bands and filters read this and never the score.
        score: The reward used for the advantage; equal to `correct` unless it is shaped. Finite.
        status: Only `OK` takes part in training.
        milliseconds: Wall-clock time in the verifier.
        detail: Why a verdict is not `OK`; else what the verifier says of the answer, such as where
            a plan fails; may be empty.
    """

    correct: bool
    score: float
    status: VerdictStatus = VerdictStatus.OK
    milliseconds: float = 0.0
    detail: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Rollout:
    """All completions of one prompt from one sampling, not yet verified.

    Attributes:
        prompt: The problem.
        prompt_token_ids: `(P,)` the prompt as the model read it.
        completions: G of them.
        policy_version: The number of training steps behind the weights that sampled them.
        step: The training step in which they were sampled, from 1; 0 outside training.
        temperature: Of the sampling distribution; the only sampling parameter there is.
    """

    prompt: Prompt
    prompt_token_ids: IntArray
    completions: tuple[Completion, ...]
    policy_version: int
    step: int
    temperature: float


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Group:
    """A verified rollout: the unit of filtering, buffering and training.

    Attributes:
        rollout: What was sampled.
        verdicts: One for each completion, in order.
    """

    rollout: Rollout
    verdicts: tuple[Verdict, ...]

    @property
    def prompt_id(self) -> str:
        """The prompt's stable name."""
        return self.rollout.prompt.prompt_id

    @property
    def size(self) -> int:
        """The number of completions, G."""
        return len(self.verdicts)

    @property
    def is_verified(self) -> bool:
        """Whether every verdict is `OK`; a group with any other takes no part in training."""
        return all(verdict.status is VerdictStatus.OK for verdict in self.verdicts)

    @property
    def correctness_rate(self) -> float:
        """Share of correct completions, mu in [0, 1]; meaningful only where `is_verified`."""
        return sum(verdict.correct for verdict in self.verdicts) / len(self.verdicts)


@dataclass(frozen=True, slots=True, eq=False)
class BatchEntry:
    """A group and the source it entered the training batch from."""

    group: Group
    source: Source


@dataclass(frozen=True, slots=True, eq=False)
class TrainBatch:
    """What one training step learns from; may be empty, then the update is skipped.

    Attributes:
        step: The training step, from 1. The policy at its start has version `step - 1`.
        entries: At most B groups, each prompt at most once, fresh before retried before reused.
    """

    step: int
    entries: tuple[BatchEntry, ...]

    def staleness(self, entry: BatchEntry) -> int:
        """Training steps from the weights that sampled the group to those this step starts with."""
        return self.step - 1 - entry.group.rollout.policy_version
