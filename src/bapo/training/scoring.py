"""From rows to log-probabilities: what the model reads, and what it says of the targets.

The one place that calls the policy's module, with gradient for the learner and without it for the
proximal policy, the bound and the probes. Two things are done only where a trial shows that the
model gives the same numbers with them: completions share their prompt's computation (see
`bapo.training.packing`), and the output head is taken out of the module, so that logits are made
for a chunk of tokens at a time (see `bapo.objective.head`).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from bapo.config import TrainingSettings
from bapo.objective import TokenLogps, head_logps, token_logps
from bapo.rollout import PictureReader
from bapo.training.batching import Row
from bapo.training.micro_batches import MicroBatch, by_row, micro_batches
from bapo.training.model_traits import ModelTraits, attention_inputs, bypassed
from bapo.types import FloatArray

_CPU_TOKENS, _DEVICE_TOKENS = 2048, 16384
"""Tokens of a pass: on a CPU as many as stay in its caches, elsewhere as fill the device."""


class Scorer:
    """Scores completions under a module's weights as they are now.

    Args:
        model: The policy, as the accelerator prepared it.
        traits: What was found about the model before.
        pad_token_id: What padded positions hold.
        training: The size of micro-batches and what is checkpointed.
        accelerator: Device and precision.
        pictures: Gives what an image-text model reads besides tokens; None for one of text alone.
    """

    def __init__(
        self,
        model: Any,
        traits: ModelTraits,
        *,
        pad_token_id: int,
        training: TrainingSettings,
        accelerator: Accelerator,
        pictures: PictureReader | None = None,
    ) -> None:
        self._model = model
        self._pair_cost = traits.pair_cost if training.share_prompts else None
        self._in_line = traits.in_line and training.share_prompts
        self._mask_dtype = traits.mask_dtype
        self._head = traits.head
        self._layers = traits.layers
        self._pad_token_id = pad_token_id
        self._accelerator = accelerator
        self._pictures = pictures
        on_cpu = accelerator.device.type == "cpu"
        usual = _CPU_TOKENS if on_cpu else _DEVICE_TOKENS
        self._token_budget = training.micro_batch_tokens or usual
        self._checkpointed = [
            module
            for module in model.modules()
            if training.gradient_checkpointing and isinstance(module, GradientCheckpointingLayer)
        ]

    def micro_batches(self, rows: Sequence[Row]) -> list[MicroBatch]:
        """Cuts rows into what one forward pass takes; see `bapo.training.micro_batches`."""
        return micro_batches(
            rows,
            self._token_budget,
            self._pad_token_id,
            self._accelerator.device,
            pair_cost=self._pair_cost,
            in_line=self._in_line,
        )

    def forward(self, micro: MicroBatch, *, entropy: bool = True) -> TokenLogps:
        """Log-probabilities, with gradient, and entropies `(R, T)` of a micro-batch's completions.

        Args:
            micro: From `micro_batches`.
            entropy: Whether entropies are wanted; without, they are NaN.
        """
        with ExitStack() as stack:
            stack.enter_context(self._accelerator.autocast())
            stack.enter_context(self._checkpointing())
            stack.enter_context(self._layers.installed())
            if self._head is not None:
                stack.enter_context(bypassed(self._head))
            outputs = self._model(
                input_ids=micro.token_ids,
                use_cache=False,
                logits_to_keep=micro.token_ids.shape[1] - micro.first,
                **attention_inputs(micro, self._mask_dtype),
                **self._shown(micro),
            ).logits
            found = self._targets(micro, micro.before_targets(outputs), entropy)
        return TokenLogps(_laid_out(micro, found.logps), _laid_out(micro, found.entropy))

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of a loss of what `forward` gave.

        What is checkpointed is computed again, in the way that it was computed first.
        """
        with self._layers.installed():
            self._accelerator.backward(loss)

    def _shown(self, micro: MicroBatch) -> Mapping[str, Any]:
        """What the model reads besides the tokens; nothing in a model of text alone."""
        if self._pictures is None:
            return {}
        rows = [
            (row.images, np.concatenate((row.prompt, row.completion[:-1]))) for row in micro.rows
        ]
        return self._pictures.inputs(rows, micro.token_ids.shape[1]).arguments

    @torch.no_grad()
    def logps(self, rows: Sequence[Row]) -> list[FloatArray]:
        """Log-probabilities of completions, without gradient.

        Args:
            rows: Prompts, completions and temperatures.

        Returns:
            For each row, in order, `(T,)`.
        """
        found: dict[int, FloatArray] = {}
        for micro in self.micro_batches(rows):
            found.update(by_row(micro, self.forward(micro, entropy=False).logps))
        return [found[id(row)] for row in rows]

    def _targets(self, micro: MicroBatch, outputs: Tensor, entropy: bool) -> TokenLogps:
        """`(M,)` of the targets, from the `(M, H)` hidden states or `(M, V)` logits before them."""
        row_of_target = micro.cells // micro.mask.shape[1]
        temperatures = micro.temperatures[row_of_target]
        if self._head is None:
            found = token_logps(
                outputs[:, None], micro.targets[:, None], temperatures, entropy=entropy
            )
            return TokenLogps(found.logps[:, 0], found.entropy[:, 0])
        head = self._head
        return head_logps(
            outputs, head.weight, head.bias, micro.targets, temperatures, entropy=entropy
        )

    @contextmanager
    def _checkpointing(self) -> Iterator[None]:
        """Layers keep their inputs alone for the backward pass, where that is set.

        transformers does so only for a layer in training mode. The modules inside it stay as they
        are, and its own dropout, which some layers do by themselves, is 0 meanwhile, so that
        nothing else changes.
        """
        wanted = torch.is_grad_enabled()
        dropouts = [
            (layer, name, value)
            for layer in self._checkpointed
            for name, value in vars(layer).items()
            if "dropout" in name and isinstance(value, float)
        ]
        try:
            for layer, name, _ in dropouts:
                setattr(layer, name, 0.0)
            for layer in self._checkpointed:
                layer.training = wanted
            yield
        finally:
            for layer in self._checkpointed:
                layer.training = False
            for layer, name, value in dropouts:
                setattr(layer, name, value)


def checkpoint_layers(model: Any) -> None:
    """Prepares a transformers model for `training.gradient_checkpointing`; see `Scorer`."""
    # The name that transformers 5.0 knows is deprecated in later releases.
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable({"use_reentrant": False})


def _laid_out(micro: MicroBatch, values: Tensor) -> Tensor:
    """Values of targets `(M,)` as `(R, T)`, zero behind a completion's end."""
    empty = torch.zeros(micro.mask.numel(), dtype=values.dtype, device=values.device)
    return empty.index_copy(0, micro.cells, values).view(micro.mask.shape)
