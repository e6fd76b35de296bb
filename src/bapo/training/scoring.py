"""From rows to log-probabilities: micro-batches, what the model reads, and what it says of them.

The one place that calls the policy's module, with gradient for the learner and without it for the
proximal policy, the bound and the probes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bapo.config import TrainingSettings
from bapo.objective import TokenLogps, token_logps
from bapo.rollout import PictureReader
from bapo.training.batching import MicroBatch, Row, micro_batches
from bapo.types import FloatArray


class Scorer:
    """Scores completions under a module's weights as they are now.

    Args:
        model: The policy, as the accelerator prepared it.
        pad_token_id: What padded positions hold.
        training: The size of micro-batches.
        device: Where the module is.
        pictures: Gives what an image-text model reads besides tokens; None for one of text alone.
    """

    def __init__(
        self,
        model: Any,
        *,
        pad_token_id: int,
        training: TrainingSettings,
        device: torch.device,
        pictures: PictureReader | None = None,
    ) -> None:
        self._model = model
        self._pad_token_id = pad_token_id
        self._training = training
        self._device = device
        self._pictures = pictures

    def micro_batches(self, rows: Sequence[Row]) -> list[MicroBatch]:
        """Cuts rows into what one forward pass takes; see `bapo.training.batching`."""
        return micro_batches(
            rows, self._training.micro_batch_tokens, self._pad_token_id, self._device
        )

    def forward(self, micro: MicroBatch) -> TokenLogps:
        """Log-probabilities and entropies `(N, T)` of a micro-batch's targets, with gradient."""
        kept = micro.token_ids.shape[1] - micro.first
        logits = self._model(
            input_ids=micro.token_ids,
            use_cache=False,
            logits_to_keep=kept,
            **self._shown(micro),
        ).logits
        return token_logps(logits[:, :-1], micro.targets, micro.temperatures)

    def _shown(self, micro: MicroBatch) -> Mapping[str, Tensor]:
        """What the model reads besides the tokens; nothing in a model of text alone."""
        if self._pictures is None:
            return {}
        rows = [(row.images, np.concatenate((row.prompt, row.completion))) for row in micro.rows]
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
            found.update(logps_by_row(micro, self.forward(micro).logps))
        return [found[id(row)] for row in rows]


def logps_by_row(micro: MicroBatch, logps: Tensor) -> dict[int, FloatArray]:
    """Each row's own part, `(T,)`, of a micro-batch's log-probabilities, by the row's identity."""
    values = logps.cpu().numpy()
    spans = enumerate(micro.spans())
    return {id(row): values[index, span].copy() for index, (row, span) in spans}
