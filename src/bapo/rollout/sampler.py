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
from transformers import PreTrainedModel

from bapo.config.settings import RolloutSettings
from bapo.errors import ModelError, RunStoppedError
from bapo.rollout.batching import PromptBatch, Row, WaitingRows, pad_left
from bapo.rollout.decoders import Decoder, decoder_of, made_decoder
from bapo.rollout.encoding import PromptEncoder
from bapo.rollout.live import Ended, LiveBatch
from bapo.rollout.loading import end_token_ids
from bapo.rollout.stopping import StopDetector
from bapo.types import Completion, FinishReason, ImageReference, IntArray

# Rows are dropped once the live ones are less than this share of the batch; 0 never drops any.
COMPACT_BELOW = 0.95
# Waiting prompts join once this share of the room for rows is free; each joining costs a pass of
# the prompts through the model, and the module's cache is moved as a whole.
_REFILL_SHARE = 0.5
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
        decoder = made_decoder(
            self._model,
            self._settings.decoder,
            max(map(len, prompts)),
            new_tokens,
            reads_pictures=self._encoder.pictures is not None,
        )
        waiting = WaitingRows([len(prompt) for prompt in prompts], len(keys[0]), new_tokens)
        groups = _Groups(len(keys[0]), self._completions, on_group)
        batch = LiveBatch(decoder.store(), new_tokens)
        while waiting or batch.size:
            if rows := self._beginning(waiting, batch, decoder):
                self._begin(batch, rows, prompts, keys, decoder, images)
            tokens, logps = decoder.draw(batch.logits, batch.uniforms(), temperature)
            batch.record(tokens.numpy(force=True), logps.numpy(force=True))
            groups.add(batch.end(self._stopped(batch)))
            if batch.needs_drop(self._compact_below):
                tokens = batch.drop_ended(tokens)
            if batch.size:
                batch.logits = decoder.step(batch.store, tokens, batch.positions)

    def _beginning(self, waiting: WaitingRows, batch: LiveBatch, decoder: Decoder) -> list[Row]:
        """The rows that begin at this token, first ones or such as join others."""
        budget = self._settings.token_budget
        if not batch.size:
            return waiting.take(budget, alike=not decoder.pads)
        if not waiting or not (decoder.joins and self._settings.refill):
            return []
        return waiting.take(budget, beside=batch.size, at_least=_REFILL_SHARE)

    def _begin(
        self,
        batch: LiveBatch,
        rows: list[Row],
        prompts: Sequence[IntArray],
        keys: Sequence[Sequence[int]],
        decoder: Decoder,
        images: Sequence[tuple[ImageReference, ...]] | None,
    ) -> None:
        """Runs the prompts of some rows through the model, and adds the rows to the batch."""
        distinct = list(dict.fromkeys(row.prompt for row in rows))
        place = {prompt: number for number, prompt in enumerate(distinct)}
        pad_id: Any = self._encoder.tokenizer.pad_token_id
        own = [prompts[prompt] for prompt in distinct]
        ids, pads = pad_left(own, pad_id or 0, self._model.device)
        shown = None
        if self._encoder.pictures is not None:
            pairs = [(images[prompt] if images else (), prompts[prompt]) for prompt in distinct]
            shown = self._encoder.pictures.inputs(pairs, ids.shape[1], left=True)
        together = PromptBatch(ids, pads, shown)
        prompt_of_row = [place[row.prompt] for row in rows]
        logits = decoder.join(batch.store, together, prompt_of_row)
        starts = together.starts.tolist()
        batch.add(
            rows,
            [keys[row.prompt][row.index] for row in rows],
            logits[torch.tensor(prompt_of_row, device=logits.device)],
            [starts[number] for number in prompt_of_row],
        )

    def _stopped(self, batch: LiveBatch) -> npt.NDArray[np.bool_]:
        """`(R,)` which rows end with their newest token, at an end token or a stop string."""
        newest = batch.newest
        stopped = self._stops.ended(newest)
        for row in self._stops.may_complete(newest):
            if not stopped[row] and batch.is_live(row):
                stopped[row] = self._stops.has_stop(batch.tokens_of(row))
        return stopped

    def _completions(self, rows: Sequence[Ended]) -> list[Completion]:
        """What rows came to, as the rest of the program knows it."""
        if not all(np.isfinite(row.logps).all() for row in rows):
            raise RunStoppedError(
                "The model's log-probabilities are not finite while sampling; the weights are "
                "broken, so go back to an earlier checkpoint with a lower learning rate."
            )
        return [
            Completion(
                token_ids=row.token_ids,
                behavior_logps=row.logps,
                loss_mask=np.ones(len(row.token_ids), dtype=np.bool_),
                finish_reason=FinishReason.STOP if row.stopped else FinishReason.LENGTH,
                text=self._stops.cut(text),
            )
            for row, text in zip(
                rows, self._encoder.decode_all([row.token_ids for row in rows]), strict=True
            )
        ]


class _Groups:
    """Groups that are not whole yet, and whom to tell when they are.

    Args:
        size: Completions of each prompt.
        completions: Makes a group's completions of what its rows came to.
        on_group: See `Sampler.sample`.
    """

    def __init__(
        self,
        size: int,
        completions: Callable[[Sequence[Ended]], list[Completion]],
        on_group: OnGroup,
    ) -> None:
        self._size = size
        self._completions = completions
        self._on_group = on_group
        self._ended: dict[int, dict[int, Ended]] = {}

    def add(self, ended: Iterable[Ended]) -> None:
        """Takes what some rows came to, and tells of the groups that are now whole."""
        for one in ended:
            group = self._ended.setdefault(one.row.prompt, {})
            group[one.row.index] = one
            if len(group) == self._size:
                del self._ended[one.row.prompt]
                rows = [group[index] for index in range(self._size)]
                self._on_group(one.row.prompt, self._completions(rows))


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
