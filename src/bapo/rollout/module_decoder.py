"""Token steps by the model's own module: any architecture, on any device, with adapter layers."""

import inspect
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from bapo.rollout.batching import PromptBatch
from bapo.rollout.cache import RowCache
from bapo.rollout.drawing import draw_tokens
from bapo.rollout.pictures import PictureInputs


class ModuleDecoder:
    """Runs prompts and tokens through the model's forward method.

    A model that takes no positions counts them from the start of the cache. Its prompts are neither
    padded nor joined, so that this is right.
    """

    def __init__(self, model: PreTrainedModel, new_tokens: int, *, reads_pictures: bool) -> None:
        """Makes a decoder.

        Args:
            model: A causal language model in evaluation mode.
            new_tokens: Tokens sampled at most per completion.
            reads_pictures: Whether prompts may show pictures.
        """
        self._model, self._new_tokens = model, new_tokens
        accepted = inspect.signature(model.forward).parameters
        self._takes_positions = self.joins = self.pads = "position_ids" in accepted
        # A model that counts a picture's positions in its own way must not be left to guess.
        self._always = reads_pictures
        self._extra: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}

    def store(self) -> RowCache:
        """A cache without rows."""
        return RowCache()

    def join(self, store: RowCache, prompts: PromptBatch, prompt_of_row: Sequence[int]) -> Tensor:
        """Runs prompts, and adds rows that continue them; see `Decoder.join`."""
        cache = RowCache(prompts.pads, prompts.ids.shape[1])
        logits = self._forward(prompts.ids, prompts.positions, cache, prompts.shown)
        store.join(cache, prompt_of_row, self._new_tokens)
        return logits

    def step(self, store: RowCache, tokens: Tensor, positions: Tensor) -> Tensor:
        """Runs the newest token of every row; see `Decoder.step`."""
        store.make_room()
        return self._forward(tokens[:, None], positions[:, None], store)

    def draw(self, logits: Tensor, uniforms: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Draws a token for every row; see `draw_tokens`."""
        return draw_tokens(logits, uniforms, temperature)

    def _forward(
        self, ids: Tensor, positions: Tensor, cache: RowCache, shown: PictureInputs | None = None
    ) -> Tensor:
        """`(R, V)` logits after the newest of `(R, T)` tokens."""
        extra, mask = dict(self._extra), cache.mask(ids.shape[1])
        if self._takes_positions and (mask is not None or self._always):
            extra["position_ids"] = positions
        if shown is not None:
            extra |= shown.arguments
        output = self._model(
            input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **extra
        )
        return output.logits[:, -1]
