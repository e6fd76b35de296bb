"""The grouped sampler: many completions per prompt from any transformers causal language model.

What makes it faster than `generate` for groups: each prompt runs through the model once, however
many completions it gets; the cache is allocated once and written in place; rows that have ended
leave the batch; log-probabilities are taken from the distribution that is sampled from anyway.

The distribution is the full softmax at the given temperature. There is no top-p or top-k: the
importance weights of off-policy learning need the probability under what was really sampled from.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedModel

from bapo.config.settings import RolloutSettings
from bapo.errors import ModelError, RunStoppedError
from bapo.rollout.batching import Row, pad_left, plan_batches
from bapo.rollout.cache import RowCache
from bapo.rollout.decoder import TokenDecoder, supports
from bapo.rollout.encoding import PromptEncoder
from bapo.rollout.loading import end_token_ids
from bapo.rollout.pictures import PictureInputs
from bapo.rollout.randomness import BLOCK, uniform_block
from bapo.rollout.stopping import StopDetector
from bapo.types import Completion, FinishReason, ImageReference, IntArray

# Rows are dropped once the live ones are less than this share of the batch; 0 never drops any.
COMPACT_BELOW = 0.95
# Float64 numbers held at once while drawing; bounds the memory for large vocabularies.
_DRAW_NUMBERS = 1 << 24
_SUPPORTED_LAYERS = {"full_attention", "sliding_attention"}


@dataclass(slots=True)
class TokenCounts:
    """Tokens that went through the model since the sampler was made."""

    prefill: int = 0
    decode: int = 0


class Sampler:
    """Samples completions from the weights that the model holds at the time of the call."""

    def __init__(
        self,
        model: PreTrainedModel,
        encoder: PromptEncoder,
        settings: RolloutSettings,
        *,
        compact_below: float = COMPACT_BELOW,
        fast: bool = True,
    ) -> None:
        """Makes a sampler.

        Args:
            model: A causal language model in evaluation mode.
            encoder: Decodes completions.
            settings: New tokens, stop strings and the token budget are read from it.
            compact_below: Share of live rows in [0, 1] below which ended rows are dropped; changes
                speed, and no result.
            fast: Use the hand-written decoder for models that it knows; changes speed, and results
                by rounding alone.

        Raises:
            ModelError: The model has layers whose state is not a cache of keys and values.
        """
        _check_layers(model)
        self._model = model
        self._encoder = encoder
        self._settings = settings
        self._compact_below = compact_below
        self._fast = fast
        head: Any = model.get_output_embeddings()
        vocabulary = head.weight.shape[0]
        self._stops = StopDetector(
            encoder, end_token_ids(model, encoder.tokenizer), settings.stop, vocabulary
        )
        accepted = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in accepted
        self._extra: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        self.counts = TokenCounts()

    @torch.inference_mode()
    def sample(
        self,
        prompts: Sequence[IntArray],
        keys: Sequence[Sequence[int]],
        temperature: float,
        images: Sequence[tuple[ImageReference, ...]] | None = None,
    ) -> list[list[Completion]]:
        """Samples completions.

        Args:
            prompts: Token ids of each prompt, `(P,)` with P >= 1.
            keys: For each prompt, the random key of each of its completions; the same number for
                all.
            temperature: Above 0; logits are divided by it.
            images: The pictures that each prompt shows; None where none does.

        Returns:
            For each prompt, in order, its completions in the order of their keys.

        Raises:
            RunStoppedError: The model's log-probabilities are not finite.
        """
        if not prompts:
            return []
        completions: list[list[Completion]] = [[] for _ in prompts]
        plan = plan_batches(
            [len(prompt) for prompt in prompts],
            len(keys[0]),
            self._settings.max_new_tokens,
            self._settings.token_budget,
        )
        for rows in plan:
            row_keys = [keys[row.prompt][row.index] for row in rows]
            made = self._sample_batch(prompts, rows, row_keys, temperature, images)
            for row, completion in zip(rows, made, strict=True):
                completions[row.prompt].append(completion)
        return completions

    def _sample_batch(
        self,
        prompts: Sequence[IntArray],
        rows: list[Row],
        keys: list[int],
        temperature: float,
        images: Sequence[tuple[ImageReference, ...]] | None,
    ) -> list[Completion]:
        distinct = list(dict.fromkeys(row.prompt for row in rows))
        place = {prompt: number for number, prompt in enumerate(distinct)}
        cache = RowCache()
        device = self._model.device
        pad_id: Any = self._encoder.tokenizer.pad_token_id
        ids, pads = pad_left([prompts[prompt] for prompt in distinct], pad_id or 0, device)
        width, new_tokens = ids.shape[1], self._settings.max_new_tokens
        padded = bool(pads.any())
        positions = (torch.arange(width, device=device) - pads[:, None]).clamp_(min=0)
        mask = torch.arange(width + new_tokens, device=device) >= pads[:, None] if padded else None
        pictures = self._encoder.pictures
        shown = None
        if pictures is not None:
            pairs = [(images[prompt] if images else (), prompts[prompt]) for prompt in distinct]
            shown = pictures.inputs(pairs, width, left=True)
        logits = self._forward(ids, positions, mask, cache, shown)
        self.counts.prefill += sum(len(prompts[prompt]) for prompt in distinct)

        prompt_of_row = torch.tensor([place[row.prompt] for row in rows], device=device)
        cache.expand(prompt_of_row, width + new_tokens)
        batch = _LiveBatch(
            cache=cache,
            logits=logits[prompt_of_row],
            pads=pads[prompt_of_row],
            shifts=None if shown is None else shown.shifts[prompt_of_row],
            mask=None if mask is None else mask[prompt_of_row],
            keys=keys,
            new_tokens=new_tokens,
        )
        if self._fast and supports(self._model):
            batch.decoder = TokenDecoder(self._model, cache, batch.pads, width + new_tokens)
        self._decode(batch, width, temperature)
        return self._completions(batch)

    def _decode(self, batch: "_LiveBatch", width: int, temperature: float) -> None:
        """Samples until every row has ended or has as many tokens as it may."""
        last = self._settings.max_new_tokens - 1
        for count in range(last + 1):
            tokens = batch.draw(count, temperature)
            batch.end(self._ended_rows(batch, tokens.numpy(force=True), count))
            if count == last or batch.live == 0:
                return
            if batch.live < self._compact_below * batch.size:
                tokens = batch.drop_ended(tokens)
            positions = width + count - batch.pads
            if batch.shifts is not None:
                positions = positions + batch.shifts
            if batch.decoder is not None:
                batch.logits = batch.decoder.step(tokens, positions)
            else:
                batch.logits = self._forward(
                    tokens[:, None], positions[:, None], batch.mask, batch.cache
                )
            self.counts.decode += batch.size

    def _ended_rows(
        self, batch: "_LiveBatch", tokens: npt.NDArray[np.int64], count: int
    ) -> npt.NDArray[np.bool_]:
        """`(R,)` which rows end with the tokens just drawn, end tokens and stop strings alike."""
        ended = self._stops.ended(tokens)
        for row in self._stops.may_complete(tokens):
            if not ended[row] and batch.alive[row]:
                ended[row] = self._stops.has_stop(batch.tokens_of(row, count + 1))
        return ended

    def _forward(
        self,
        ids: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        cache: RowCache,
        shown: PictureInputs | None = None,
    ) -> Tensor:
        """`(R, V)` logits after the newest of `(R, T)` tokens."""
        extra = dict(self._extra)
        # A model that counts a picture's positions in its own way must not be left to guess.
        if self._takes_positions and (mask is not None or self._encoder.pictures is not None):
            extra["position_ids"] = positions
        if shown is not None:
            extra |= shown.arguments
        if mask is not None:
            mask = mask[:, : cache.get_seq_length() + ids.shape[1]]
        output = self._model(
            input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **extra
        )
        return output.logits[:, -1]

    def _completions(self, batch: "_LiveBatch") -> list[Completion]:
        tokens = batch.tokens.numpy(force=True)
        logps = batch.logps.numpy(force=True)
        ids = [row[:size].astype(np.int32) for row, size in zip(tokens, batch.lengths, strict=True)]
        texts = self._encoder.decode_all(ids)
        made: list[Completion] = []
        for row, token_ids in enumerate(ids):
            row_logps = logps[row, : len(token_ids)].copy()
            if not np.isfinite(row_logps).all():
                raise RunStoppedError(
                    "The model's log-probabilities are not finite while sampling; the weights are "
                    "broken, so go back to an earlier checkpoint with a lower learning rate."
                )
            stopped = bool(batch.stopped[row])
            made.append(
                Completion(
                    token_ids=token_ids,
                    behavior_logps=row_logps,
                    loss_mask=np.ones(len(token_ids), dtype=np.bool_),
                    finish_reason=FinishReason.STOP if stopped else FinishReason.LENGTH,
                    text=self._stops.cut(texts[row]),
                )
            )
        return made


class _LiveBatch:
    """The rows of one batch while they are sampled.

    Row state (`slots`, `alive`, `pads`, `shifts`, `mask`, `logits`, the cache) shrinks as ended
    rows are dropped; results (`tokens`, `logps`, `lengths`, `stopped`) are kept per slot, the
    row's place at the start. An ended row that has not been dropped yet goes on being sampled, and
    what it gets lies behind its length, where nobody reads it.
    """

    def __init__(
        self,
        *,
        cache: RowCache,
        logits: Tensor,
        pads: Tensor,
        shifts: Tensor | None,
        mask: Tensor | None,
        keys: list[int],
        new_tokens: int,
    ) -> None:
        count, device = len(keys), logits.device
        self.cache, self.logits, self.pads, self.mask = cache, logits, pads, mask
        self.shifts = shifts
        self.decoder: TokenDecoder | None = None
        self._keys = keys
        self._uniforms = torch.empty(0)
        self._slots = torch.arange(count, device=device)
        self._slot_numbers = np.arange(count)
        self.alive = np.ones(count, dtype=np.bool_)
        self.live = self.size = count
        self.tokens = torch.zeros((count, new_tokens), dtype=torch.long, device=device)
        self.logps = torch.zeros((count, new_tokens), dtype=torch.float32, device=device)
        self.lengths = np.full(count, new_tokens)
        self.stopped = np.zeros(count, dtype=np.bool_)
        self._count = 0

    def draw(self, count: int, temperature: float) -> Tensor:
        """Samples token number `count` of every row and records it with its log-probability."""
        if count % BLOCK == 0:
            keys = [self._keys[slot] for slot in self._slot_numbers]
            self._uniforms = torch.from_numpy(uniform_block(keys, count // BLOCK)).to(
                self.logits.device
            )
        self._count = count + 1
        tokens, logps = draw_tokens(self.logits, self._uniforms[:, count % BLOCK], temperature)
        self.tokens[self._slots, count] = tokens
        self.logps[self._slots, count] = logps
        return tokens

    def tokens_of(self, row: int, count: int) -> npt.NDArray[np.int64]:
        """The first `count` tokens of a row."""
        return self.tokens[self._slots[row], :count].numpy(force=True)

    def end(self, ended: npt.NDArray[np.bool_]) -> None:
        """Ends the live ones among the rows marked, with the token just drawn."""
        ended = ended & self.alive
        if not ended.any():
            return
        slots = self._slot_numbers[ended]
        self.lengths[slots] = self._count
        self.stopped[slots] = True
        self.alive &= ~ended
        self.live = int(self.alive.sum())

    def drop_ended(self, tokens: Tensor) -> Tensor:
        """Moves live rows into the places of ended ones, and drops the rest.

        Only as many rows are copied as have ended at the front, not the whole cache.

        Returns:
            The tokens just drawn, `(live,)`, in the new order.
        """
        live = self.live
        order = np.arange(live)
        targets = np.flatnonzero(~self.alive[:live])
        sources = live + np.flatnonzero(self.alive[live:])
        order[targets] = sources
        index = torch.from_numpy(order).to(tokens.device)
        if len(targets):
            self.cache.keep(live, index.new_tensor(targets), index.new_tensor(sources))
        else:
            self.cache.keep(live, index[:0], index[:0])
        self._slots, self._slot_numbers = self._slots[index], self._slot_numbers[order]
        self.pads, self._uniforms = self.pads[index], self._uniforms[index]
        self.mask = None if self.mask is None else self.mask[index]
        self.shifts = None if self.shifts is None else self.shifts[index]
        if self.decoder is not None:
            self.decoder.keep(index)
        self.alive, self.size = np.ones(live, dtype=np.bool_), live
        return tokens[index]


def draw_tokens(logits: Tensor, uniforms: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Draws one token per row by inverting the cumulative distribution.

    Args:
        logits: `(R, V)`, of any floating type.
        uniforms: `(R,)` float64 in [0, 1).
        temperature: Above 0.

    Returns:
        `(R,)` token ids and their `(R,)` float32 log-probabilities at that temperature. A token of
        probability 0 is never drawn.
    """
    rows, vocabulary = logits.shape
    step = max(1, _DRAW_NUMBERS // vocabulary)
    if rows > step:
        parts = [
            draw_tokens(logits[start : start + step], uniforms[start : start + step], temperature)
            for start in range(0, rows, step)
        ]
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
    logps = torch.log_softmax(logits.float() / temperature, dim=-1)
    cumulative = logps.exp().cumsum(dim=-1, dtype=torch.float64)
    total = cumulative[:, -1:]
    # Rounding may lift the product to the total itself, behind which there is no token.
    below = torch.nextafter(total, torch.zeros_like(total))
    target = torch.minimum(uniforms[:, None] * total, below)
    tokens = torch.searchsorted(cumulative, target, right=True).clamp_(max=vocabulary - 1)
    return tokens[:, 0], logps.gather(1, tokens)[:, 0]


def _check_layers(model: PreTrainedModel) -> None:
    if "past_key_values" not in inspect.signature(model.forward).parameters:
        raise ModelError(
            f"The model is a {type(model).__name__}, which keeps no keys and values of the tokens "
            "it has read; the embedded engine needs them, so choose a model with attention."
        )
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    unknown = sorted(kinds - _SUPPORTED_LAYERS)
    if unknown:
        raise ModelError(
            f"The model has layers of the kind '{unknown[0]}', but the embedded engine runs only "
            "models whose layers are full or sliding attention; choose such a model."
        )
