"""The grouped sampler: many completions per prompt from any transformers causal language model.

What makes it faster than `generate` for groups: each prompt runs through the model once, however
many completions it gets; the cache is allocated once and written in place; rows that have ended
leave, and waiting prompts take their room; log-probabilities are taken from the distribution that
is sampled from anyway.

The distribution is the full softmax at the given temperature. There is no top-p or top-k: the
importance weights of off-policy learning need the probability under what was really sampled from.
"""

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedModel

from bapo.config.settings import RolloutSettings
from bapo.errors import ModelError, RunStoppedError
from bapo.rollout.batching import Row, WaitingRows, pad_left
from bapo.rollout.cache import RowCache
from bapo.rollout.decoder import TokenDecoder
from bapo.rollout.decoders import decoder_of, made_decoder
from bapo.rollout.drawing import draw_tokens
from bapo.rollout.encoding import PromptEncoder
from bapo.rollout.live import LiveBatch
from bapo.rollout.loading import end_token_ids
from bapo.rollout.native import kernels
from bapo.rollout.native_decoder import NativeDecoder
from bapo.rollout.pictures import PictureInputs
from bapo.rollout.stopping import StopDetector
from bapo.types import Completion, FinishReason, ImageReference, IntArray

# Rows are dropped once the live ones are less than this share of the batch; 0 never drops any.
COMPACT_BELOW = 0.95
# Waiting prompts join once this share of the token budget is free; each joining costs a pass of
# the prompts through the model, and a few small operations at every token of the batch it makes.
_REFILL_SHARE = 0.25
_BATCHES_AT_ONCE = 8
_SUPPORTED_LAYERS = {"full_attention", "sliding_attention"}

OnGroup = Callable[[int, list[Completion]], None]


class Sampler:
    """Samples completions from the weights that the model holds at the time of the call."""

    def __init__(
        self,
        model: PreTrainedModel,
        encoder: PromptEncoder,
        settings: RolloutSettings,
        *,
        compact_below: float = COMPACT_BELOW,
    ) -> None:
        """Makes a sampler.

        Args:
            model: A causal language model in evaluation mode.
            encoder: Decodes completions.
            settings: New tokens, stop strings, token budget, decoder and refilling.
            compact_below: Share of live rows in [0, 1] below which ended rows are dropped; changes
                speed, and no result.

        Raises:
            ModelError: The model has layers whose state is not a cache of keys and values, or the
                decoder that the settings ask for cannot run it here.
        """
        _check_layers(model)
        decoder_of(model, settings.decoder)
        self._model = model
        self._encoder = encoder
        self._settings = settings
        self._compact_below = compact_below
        head: Any = model.get_output_embeddings()
        vocabulary = head.weight.shape[0]
        self._stops = StopDetector(
            encoder, end_token_ids(model, encoder.tokenizer), settings.stop, vocabulary
        )
        accepted = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in accepted
        self._extra: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}

    @property
    def decoder(self) -> str:
        """What runs token steps: native, torch or module.

        Raises:
            ModelError: The settings ask for a decoder that cannot run this model here.
        """
        return decoder_of(self._model, self._settings.decoder)

    @torch.inference_mode()
    def sample(
        self,
        prompts: Sequence[IntArray],
        keys: Sequence[Sequence[int]],
        temperature: float,
        on_group: OnGroup,
        images: Sequence[tuple[ImageReference, ...]] | None = None,
    ) -> None:
        """Samples completions.

        Args:
            prompts: Token ids of each prompt, `(P,)` with P >= 1; at least one.
            keys: For each prompt, the random key of each of its completions; the same number for
                all.
            temperature: Above 0; logits are divided by it.
            on_group: Called once for every prompt, with its number and its completions in the order
                of their keys, as soon as the last of them has ended.
            images: The pictures that each prompt shows; None where none does.

        Raises:
            RunStoppedError: The model's log-probabilities are not finite.
        """
        new_tokens = self._settings.max_new_tokens
        positions = max(map(len, prompts)) + new_tokens
        decoder = made_decoder(self._model, self._settings.decoder, positions)
        waiting = WaitingRows([len(prompt) for prompt in prompts], len(keys[0]), new_tokens)
        groups = _Groups(len(keys[0]), on_group)
        batches: list[LiveBatch] = []
        while waiting or batches:
            if rows := self._admitted(waiting, batches, joins=decoder is not None):
                row_keys = [keys[row.prompt][row.index] for row in rows]
                batches.append(self._start(prompts, rows, row_keys, decoder, images))
            tokens = self._draw(batches, temperature, decoder)
            batches, tokens = self._settle(batches, tokens, groups)
            if batches:
                self._step(batches, tokens, decoder)

    def _admitted(
        self, waiting: WaitingRows, batches: Sequence[LiveBatch], *, joins: bool
    ) -> list[Row]:
        """The rows that begin at this token: a first batch, or one that joins others."""
        budget = self._settings.token_budget
        if not batches:
            return waiting.take(budget)
        free = budget - sum(one.size * (one.width + one.new_tokens) for one in batches)
        if (
            not waiting
            or not (joins and self._settings.refill)
            or len(batches) >= _BATCHES_AT_ONCE
            or free < _REFILL_SHARE * budget
            or free < waiting.next_need
        ):
            return []
        return waiting.take(free)

    def _start(
        self,
        prompts: Sequence[IntArray],
        rows: list[Row],
        keys: list[int],
        decoder: TokenDecoder[Any] | None,
        images: Sequence[tuple[ImageReference, ...]] | None,
    ) -> LiveBatch:
        """Runs the prompts of some rows through the model, and makes a batch of the rows."""
        distinct = list(dict.fromkeys(row.prompt for row in rows))
        place = {prompt: number for number, prompt in enumerate(distinct)}
        device = self._model.device
        pad_id: Any = self._encoder.tokenizer.pad_token_id
        ids, pads = pad_left([prompts[prompt] for prompt in distinct], pad_id or 0, device)
        width, new_tokens = ids.shape[1], self._settings.max_new_tokens
        cache = RowCache(self._prompt_mask(width + new_tokens, pads))
        positions = (torch.arange(width, device=device) - pads[:, None]).clamp_(min=0)
        shown = None
        if self._encoder.pictures is not None:
            pairs = [(images[prompt] if images else (), prompts[prompt]) for prompt in distinct]
            shown = self._encoder.pictures.inputs(pairs, width, left=True)
        logits = self._forward(ids, positions, cache, shown)
        prompt_of_row = torch.tensor([place[row.prompt] for row in rows], device=device)
        if decoder is None:
            cache.expand(prompt_of_row, width + new_tokens)
            store = cache
        else:
            store = decoder.cache(cache, pads, prompt_of_row.tolist(), new_tokens)
        starts = width - pads if shown is None else width - pads + shown.shifts
        return LiveBatch(
            rows=rows,
            keys=keys,
            store=store,
            logits=logits[prompt_of_row],
            starts=starts[prompt_of_row],
            width=width,
            new_tokens=new_tokens,
        )

    def _prompt_mask(self, capacity: int, pads: Tensor) -> Tensor | None:
        """`(N, capacity)` which cache positions the model may see; None where it may see all."""
        if not bool(pads.any()):
            return None
        return torch.arange(capacity, device=pads.device) >= pads[:, None]

    def _draw(
        self, batches: Sequence[LiveBatch], temperature: float, decoder: TokenDecoder[Any] | None
    ) -> Tensor:
        """Draws the next token of every row of every batch, `(R,)`."""
        sizes = [batch.size for batch in batches]
        draw = kernels().draw if isinstance(decoder, NativeDecoder) else draw_tokens
        tokens, logps = draw(
            _joined([batch.logits for batch in batches]),
            _joined([batch.uniforms() for batch in batches]),
            temperature,
        )
        parts = zip(batches, tokens.split(sizes), logps.split(sizes), strict=True)
        for batch, own_tokens, own_logps in parts:
            batch.record(own_tokens, own_logps)
        return tokens

    def _settle(
        self, batches: Sequence[LiveBatch], tokens: Tensor, groups: "_Groups"
    ) -> tuple[list[LiveBatch], Tensor]:
        """Ends rows, hands over what they came to, and drops them where enough have ended.

        Returns:
            The batches that go on, and the newest tokens of their rows.
        """
        numbers = tokens.numpy(force=True)
        going: list[LiveBatch] = []
        kept: list[Tensor] = []
        start = 0
        for batch in batches:
            own = slice(start, start + batch.size)
            start += batch.size
            ended = batch.end(self._ended_rows(batch, numbers[own]))
            if ended:
                groups.add(zip(*self._completed(batch, ended), strict=True))
            if not batch.live:
                continue
            newest = tokens[own]
            if batch.live < self._compact_below * batch.size:
                newest = batch.drop_ended(newest)
            going.append(batch)
            kept.append(newest)
        return going, _joined(kept) if kept else tokens

    def _step(
        self, batches: Sequence[LiveBatch], tokens: Tensor, decoder: TokenDecoder[Any] | None
    ) -> None:
        """Runs the newest token of every row through the model."""
        if decoder is None:  # the module runs one batch at a time
            batch = batches[0]
            cache: Any = batch.store
            batch.logits = self._forward(tokens[:, None], batch.positions[:, None], cache)
        else:
            caches: list[Any] = [batch.store for batch in batches]
            logits = decoder.step(caches, tokens, _joined([batch.positions for batch in batches]))
            for batch, own in zip(
                batches, logits.split([one.size for one in batches]), strict=True
            ):
                batch.logits = own

    def _ended_rows(self, batch: LiveBatch, tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """`(R,)` which rows end with the tokens just drawn, end tokens and stop strings alike."""
        ended = self._stops.ended(tokens)
        for row in self._stops.may_complete(tokens):
            if not ended[row] and batch.alive[row]:
                ended[row] = self._stops.has_stop(batch.tokens_of(row))
        return ended

    def _forward(
        self, ids: Tensor, positions: Tensor, cache: RowCache, shown: PictureInputs | None = None
    ) -> Tensor:
        """`(R, V)` logits after the newest of `(R, T)` tokens."""
        extra = dict(self._extra)
        mask = cache.mask
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

    def _completed(
        self, batch: LiveBatch, slots: Sequence[int]
    ) -> tuple[list[Row], list[Completion]]:
        """What the rows in some slots came to."""
        places = torch.tensor(slots, device=batch.tokens.device)
        tokens = batch.tokens[places].numpy(force=True).astype(np.int32)
        logps = batch.logps[places].numpy(force=True)
        # A number behind a row's end was drawn like any other, or is 0.
        if not np.isfinite(logps).all():
            raise RunStoppedError(
                "The model's log-probabilities are not finite while sampling; the weights are "
                "broken, so go back to an earlier checkpoint with a lower learning rate."
            )
        lengths = batch.lengths[slots].tolist()
        ids = [row[:length].copy() for row, length in zip(tokens, lengths, strict=True)]
        texts = self._encoder.decode_all(ids)
        made = [
            Completion(
                token_ids=token_ids,
                behavior_logps=row_logps[: len(token_ids)].copy(),
                loss_mask=np.ones(len(token_ids), dtype=np.bool_),
                finish_reason=FinishReason.STOP if batch.stopped[slot] else FinishReason.LENGTH,
                text=self._stops.cut(text),
            )
            for slot, token_ids, row_logps, text in zip(slots, ids, logps, texts, strict=True)
        ]
        return [batch.rows[slot] for slot in slots], made


class _Groups:
    """Groups that are not whole yet, and whom to tell when they are.

    Args:
        size: Completions of each prompt.
        on_group: See `Sampler.sample`.
    """

    def __init__(self, size: int, on_group: OnGroup) -> None:
        self._size = size
        self._on_group = on_group
        self._made: dict[int, dict[int, Completion]] = {}

    def add(self, ended: Iterable[tuple[Row, Completion]]) -> None:
        """Takes what some rows came to, and tells of the groups that are now whole."""
        for row, completion in ended:
            group = self._made.setdefault(row.prompt, {})
            group[row.index] = completion
            if len(group) == self._size:
                del self._made[row.prompt]
                self._on_group(row.prompt, [group[index] for index in range(self._size)])


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


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
