"""The embedded engine: samples with a transformers model in this process."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from bapo.config.settings import RolloutSettings
from bapo.rollout.batching import pad_right
from bapo.rollout.encoding import PromptEncoder
from bapo.rollout.engine import OnRollout, ScoreRow, seeds_of
from bapo.rollout.loading import Policy
from bapo.rollout.pictures import OpenImage, PictureReader
from bapo.rollout.randomness import completion_key
from bapo.rollout.sampler import COMPACT_BELOW, Sampler
from bapo.rollout.versions import VersionedWeights, Weights
from bapo.types import Completion, FloatArray, Prompt, Rollout

# Logits held at once while scoring; bounds the memory for large vocabularies.
_SCORE_NUMBERS = 1 << 28


class EmbeddedEngine:
    """Samples from one module, under which each version's weights are put by pointer.

    The module may be the learner's own: after every call its parameters are what they were before.
    Its random numbers are private to each completion (see `bapo.rollout.randomness`), so that there
    is no state to checkpoint.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        encoder: PromptEncoder,
        settings: RolloutSettings,
        *,
        compact_below: float = COMPACT_BELOW,
    ) -> None:
        """Makes an engine that holds no version yet.

        Args:
            model: A causal language model; the learner's own or another of the same architecture.
            encoder: Encodes prompts and decodes completions.
            settings: New tokens, stop strings and the token budget.
            compact_below: See `Sampler`.

        Raises:
            ModelError: The model's architecture is not supported, or not by `rollout.decoder`.
        """
        self._model = model
        self._encoder = encoder
        head: Any = model.get_output_embeddings()
        self._score_budget = min(settings.token_budget, _SCORE_NUMBERS // head.weight.shape[0])
        self._weights = VersionedWeights(model)
        self._sampler = Sampler(model, encoder, settings, compact_below=compact_below)

    @classmethod
    def of_policy(
        cls,
        policy: Policy,
        settings: RolloutSettings,
        *,
        compact_below: float = COMPACT_BELOW,
        open_image: OpenImage | None = None,
    ) -> "EmbeddedEngine":
        """An engine on a loaded policy's own model and tokenizer.

        Args:
            policy: The policy.
            settings: Limits of sampling.
            compact_below: See `Sampler`.
            open_image: Makes the pictures that the task's prompts show; None where they show none.
        """
        pictures = None
        if policy.processor is not None and open_image is not None:
            pictures = PictureReader(policy.processor, policy.model, open_image)
        encoder = PromptEncoder(
            policy.tokenizer,
            settings.max_prompt_tokens,
            policy.max_positions,
            settings.max_new_tokens,
            pictures,
            settings.chat_template_kwargs,
        )
        return cls(
            policy.model,
            encoder,
            settings,
            compact_below=compact_below,
        )

    @property
    def encoder(self) -> PromptEncoder:
        """What turns prompts into tokens for this engine."""
        return self._encoder

    @property
    def decoder(self) -> str:
        """What runs token steps: native, torch or module; see `rollout.decoder`."""
        return self._sampler.decoder

    @property
    def versions(self) -> tuple[int, ...]:
        """The policy versions held, ascending."""
        return self._weights.versions

    def publish(self, version: int, weights: Weights, *, share: bool = False) -> None:
        """Takes weights as a policy version; see `VersionedWeights.publish`."""
        self._weights.publish(version, weights, share=share)

    def forget(self, version: int) -> None:
        """Lets a version go; one that is not held is no error."""
        self._weights.forget(version)

    def sample(
        self,
        prompts: Sequence[Prompt],
        *,
        version: int,
        group_size: int,
        step: int,
        seed: int | Sequence[int],
        temperature: float,
        on_rollout: OnRollout | None = None,
    ) -> list[Rollout]:
        """Samples a group for each prompt, in order; see `Engine.sample`.

        Raises:
            DataError: A prompt has no tokens or too many.
            StaleEngineError: The version is not held, or its shared tensors were changed.
            RunStoppedError: The weights give log-probabilities that are not finite.
            ValueError: There are not as many seeds as prompts.
        """
        seeds = seeds_of(seed, len(prompts))
        if not prompts:
            return []
        encoded = self._encoder.encode_all(prompts)
        if any(not 1 <= len(ids) <= self._encoder.limit for ids in encoded):
            self._encoder.check(prompts)
        keys = [
            [completion_key(own, step, prompt.prompt_id, index) for index in range(group_size)]
            for prompt, own in zip(prompts, seeds, strict=True)
        ]
        made: dict[int, Rollout] = {}

        def take(number: int, group: list[Completion]) -> None:
            ids, prompt = encoded[number], prompts[number]
            made[number] = Rollout(prompt, ids, tuple(group), version, step, temperature)
            if on_rollout:
                on_rollout(made[number])

        with self._running(version):
            images = [prompt.images for prompt in prompts]
            self._sampler.sample(encoded, keys, temperature, take, images)
        return [made[number] for number in range(len(prompts))]

    @torch.inference_mode()
    def score(
        self, rows: Sequence[ScoreRow], *, version: int, temperature: float = 1.0
    ) -> list[FloatArray]:
        """Log-probabilities of given tokens by a full forward pass; see `Engine.score`."""
        scores: list[FloatArray] = []
        with self._running(version):
            for start, end in self._score_batches(rows):
                scores += self._score_batch(rows[start:end], temperature)
        return scores

    @contextmanager
    def _running(self, version: int) -> Iterator[None]:
        """The model in evaluation mode with a version's weights under it."""
        was_training = self._model.training
        with self._weights.using(version):
            self._model.eval()
            try:
                yield
            finally:
                self._model.train(was_training)

    def _score_batches(self, rows: Sequence[ScoreRow]) -> Iterator[tuple[int, int]]:
        """Ranges of rows that fit the budget when padded; a single row is always allowed."""
        start, widest = 0, 0
        for number, (prompt, completion, _) in enumerate(rows):
            wider = max(widest, len(prompt) + len(completion))
            if number > start and wider * (number + 1 - start) > self._score_budget:
                yield start, number
                start, wider = number, len(prompt) + len(completion)
            widest = wider
        if rows:
            yield start, len(rows)

    def _score_batch(self, rows: Sequence[ScoreRow], temperature: float) -> list[FloatArray]:
        sequences = [np.concatenate((row.prompt, row.completion)) for row in rows]
        ids = pad_right(sequences, 0, self._model.device)
        lengths = torch.tensor([len(sequence) for sequence in sequences], device=ids.device)
        mask = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        pictures = self._encoder.pictures
        shown = pictures.inputs([row.shown for row in rows], ids.shape[1]) if pictures else None
        logits = self._model(
            input_ids=ids,
            attention_mask=mask,
            use_cache=False,
            **(shown.arguments if shown else {}),
        ).logits
        scores: list[FloatArray] = []
        for number, (prompt, completion, _) in enumerate(rows):
            end = len(prompt) + len(completion)
            line = logits[number, len(prompt) - 1 : end - 1].float() / temperature
            targets = ids[number, len(prompt) : end, None]
            picked = torch.log_softmax(line, dim=-1).gather(-1, targets)[:, 0]
            scores.append(picked.numpy(force=True))
        return scores
