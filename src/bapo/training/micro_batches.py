"""From the rows of an optimizer update to what the model reads in one pass.

Rows stand in packs (see `bapo.training.packing`), one row or several behind one prompt. Where
attention knows packs (see `bapo.training.packed_attention`), they stand end to end in one line, as
many as a budget of tokens allows. Elsewhere packs of similar length stand together, padded on the
right and cut by a budget of padded tokens. Causal attention never looks right, so packs of one row
need no attention mask, and what stands at a padded position cannot reach a real one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bapo.training.batching import Row
from bapo.training.packing import Pack, packs
from bapo.types import FloatArray

PROMPT, PADDING = 0, -1
"""Segments that are not a completion's; completions count from 1."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Packs in one line, or one in each of several padded to one length, and the rows in them.

    The model reads `token_ids`. Of its outputs from position `first` on, laid end to end, `places`
    names the one that predicts each target. Everything about rows is `(R, T)` rows x completion
    tokens, T the longest completion; `cells` names the place of each target in it, laid end to end.

    Attributes:
        rows: R rows, in order.
        token_ids: `(N, L)` lines x tokens.
        positions: `(N, L)` place of each token in its own row; None where they only count on, since
            every line is one row.
        segments: `(N, L)` `PROMPT`, `PADDING` or which of the pack's completions; None where
            positions are, and where attention knows packs and needs no mask.
        first: The first position whose output is needed.
        places: `(M,)` integers in [0, N * (L - first)).
        cells: `(M,)` integers in [0, R * T), ascending.
        targets: `(M,)` the completions' tokens, row after row.
        mask: `(R, T)` bool, True where a token takes part in the loss.
        behavior_logps: `(R, T)`; zero behind a completion's end.
        proximal_logps: `(R, T)`; likewise, and zero where not yet known.
        advantages: `(R,)`.
        temperatures: `(R,)`.
        is_current: `(R,)` bool.
    """

    rows: tuple[Row, ...]
    token_ids: Tensor
    positions: Tensor | None
    segments: Tensor | None
    first: int
    places: Tensor
    cells: Tensor
    targets: Tensor
    mask: Tensor
    behavior_logps: Tensor
    proximal_logps: Tensor
    advantages: Tensor
    temperatures: Tensor
    is_current: Tensor

    def before_targets(self, outputs: Tensor) -> Tensor:
        """`(M, D)` what predicts the targets.

        Args:
            outputs: `(N, L - first, D)` the model's, or `(N, L, D)` where it takes no notice of
                `logits_to_keep`, as some image-text models do.
        """
        needed = outputs[:, self.first - self.token_ids.shape[1] :]
        return needed.flatten(0, 1)[self.places]


def micro_batches(
    rows: Sequence[Row],
    token_budget: int,
    pad_token_id: int,
    device: torch.device,
    *,
    pair_cost: float | None = None,
    in_line: bool = False,
) -> list[MicroBatch]:
    """Cuts rows into micro-batches.

    Args:
        rows: In any order. Packs are sorted by length, longest first, so that running out of memory
            shows at once; those that need an attention mask come before those that do not.
        token_budget: Tokens per micro-batch, padded ones included; a single longer pack stands
            alone.
        pad_token_id: What padded positions hold.
        device: Where the tensors go.
        pair_cost: See `packs`; None reads every row by itself.
        in_line: Whether packs stand end to end, for attention that knows them.
    """
    ordered = sorted(
        packs(rows, pair_cost, token_budget),
        key=lambda pack: (not pack.is_shared, -pack.length, -len(pack.rows[0].prompt)),
    )
    batches: list[MicroBatch] = []
    start = 0
    while start < len(ordered):
        head = ordered[start]
        if in_line:
            ends = np.cumsum([pack.length for pack in ordered[start:]])
            count = max(1, int(np.searchsorted(ends, token_budget, side="right")))
            lines = [ordered[start : start + count]]
        else:
            fitting = ordered[start : start + max(1, token_budget // head.length)]
            lines = [[pack] for pack in fitting if pack.is_shared == head.is_shared]
            count = len(lines)
        batches.append(_micro_batch(lines, pad_token_id, device, in_line))
        start += count
    return batches


def visible(segments: Tensor, dtype: torch.dtype) -> Tensor:
    """`(N, 1, L, L)` attention mask: 0 where a token may look, minus infinity elsewhere.

    A token sees what is before it of the prompt and of its own completion. A padded one sees
    something too, since an attention over nothing is not a number.

    Args:
        segments: `(N, L)` as in `MicroBatch`.
        dtype: Of the mask.
    """
    length = segments.shape[1]
    query, key = segments[:, :, None], segments[:, None, :]
    causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    seen = ((query == key) | (key == PROMPT)) & causal
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -torch.inf)[
        :, None
    ]


def _micro_batch(
    lines: Sequence[Sequence[Pack]], pad_token_id: int, device: torch.device, in_line: bool
) -> MicroBatch:
    rows = tuple(row for line in lines for pack in line for row in pack.rows)
    width = max(len(row.completion) for row in rows)
    places, first, length = _places(lines)
    behavior, proximal = np.zeros((2, len(rows), width), dtype=np.float32)
    mask = np.zeros((len(rows), width), dtype=np.bool_)
    present = np.zeros((len(rows), width), dtype=np.bool_)
    for index, row in enumerate(rows):
        count = len(row.completion)
        present[index, :count] = True
        mask[index, :count] = row.loss_mask & row.is_learned
        behavior[index, :count] = row.behavior_logps
        if row.proximal_logps is not None:
            proximal[index, :count] = row.proximal_logps
    tokens, positions, segments = _sequences(lines, length, pad_token_id)
    masked = not in_line and lines[0][0].is_shared

    def put(array: npt.NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(device)

    return MicroBatch(
        rows=rows,
        token_ids=put(tokens),
        positions=put(positions) if in_line or masked else None,
        segments=put(segments) if masked else None,
        first=first,
        places=put(places),
        cells=put(np.flatnonzero(present)),
        targets=put(np.concatenate([row.completion for row in rows]).astype(np.int64)),
        mask=put(mask),
        behavior_logps=put(behavior),
        proximal_logps=put(proximal),
        advantages=torch.tensor([row.advantage for row in rows], device=device),
        temperatures=torch.tensor([row.temperature for row in rows], device=device),
        is_current=torch.tensor([row.is_current for row in rows], device=device),
    )


def _places(lines: Sequence[Sequence[Pack]]) -> tuple[npt.NDArray[np.int64], int, int]:
    """Which outputs predict the targets, the first position among them, and the padded length.

    The prompt's last token predicts the first token of every completion behind it.
    """
    first = min(len(line[0].rows[0].prompt) for line in lines) - 1
    length = max(sum(pack.length for pack in line) for line in lines)
    found: list[npt.NDArray[np.int64]] = []
    for number, line in enumerate(lines):
        offset = number * (length - first) - first
        for pack in line:
            end_of_prompt = offset + len(pack.rows[0].prompt) - 1
            for row, start in pack.starts():
                places = np.arange(offset + start - 1, offset + start + len(row.completion) - 1)
                places[0] = end_of_prompt
                found.append(places)
            offset += pack.length
    return np.concatenate(found), first, length


def _sequences(
    lines: Sequence[Sequence[Pack]], length: int, pad_token_id: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Tokens, positions and segments of packs, `(N, length)` each."""
    tokens = np.full((len(lines), length), pad_token_id, dtype=np.int64)
    positions = np.zeros((len(lines), length), dtype=np.int64)
    segments = np.full((len(lines), length), PADDING, dtype=np.int64)
    for number, line in enumerate(lines):
        offset = 0
        for pack in line:
            prompt = pack.rows[0].prompt
            span = slice(offset, offset + len(prompt))
            tokens[number, span] = prompt
            positions[number, span] = np.arange(len(prompt))
            segments[number, span] = PROMPT
            for segment, (row, start) in enumerate(pack.starts(), start=1):
                count = len(row.completion) - 1
                span = slice(offset + start, offset + start + count)
                tokens[number, span] = row.completion[:-1]
                positions[number, span] = len(prompt) + np.arange(count)
                segments[number, span] = segment
            offset += pack.length
    return tokens, positions, segments


def by_row(micro: MicroBatch, values: Tensor) -> dict[int, FloatArray]:
    """Each row's own part, `(T,)`, of an `(R, T)` tensor, by the row's identity."""
    lines = values.cpu().numpy()
    return {
        id(row): line[: len(row.completion)].copy()
        for row, line in zip(micro.rows, lines, strict=True)
    }
