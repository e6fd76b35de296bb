"""The interface behind which completions are sampled, whatever runs the model."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from torch import Tensor

from bapo.types import FloatArray, ImageReference, IntArray, Prompt, Rollout

OnRollout = Callable[[Rollout], None]


class ScoreRow(NamedTuple):
    """A completion to score.

    Attributes:
        prompt: `(P,)` token ids, P >= 1.
        completion: `(T,)` token ids, T >= 1.
        images: The pictures that the tokens show, in either part of the row.
    """

    prompt: IntArray
    completion: IntArray
    images: tuple[ImageReference, ...] = ()

    @property
    def shown(self) -> tuple[tuple[ImageReference, ...], IntArray]:
        """The pictures and all tokens that may show them."""
        return self.images, np.concatenate((self.prompt, self.completion))


class Engine(Protocol):
    """Samples groups from named versions of a policy's weights.

    An engine may hold several versions at once: the behavior policy's, for fresh prompts, and the
    current policy's, for retries.
    """

    @property
    def versions(self) -> tuple[int, ...]:
        """The policy versions held, ascending."""
        ...

    def publish(self, version: int, weights: Mapping[str, Tensor], *, share: bool = False) -> None:
        """Takes weights as a policy version.

        Args:
            version: The number of training steps behind the weights.
            weights: A tensor for every parameter, by name.
            share: The engine may keep the tensors themselves; they stay as they are until
                `forget`.
        """
        ...

    def forget(self, version: int) -> None:
        """Lets a version go; one that is not held is no error."""
        ...

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
        """Samples a group for each prompt, in the order of the prompts.

        A completion follows from the weights, its prompt, its seed, `step`, and its place in its
        group alone, and not from what else is sampled in the same call. A prompt that is given
        twice has to have two seeds, or its two groups are the same.

        Args:
            prompts: What to sample for.
            version: The policy version to sample from.
            group_size: Completions per prompt, at least 1.
            step: The training step, which goes into the random numbers and the record.
            seed: One for all prompts, or one for each.
            temperature: Above 0.
            on_rollout: Called once with every rollout that is returned, as soon as its last
                completion has ended, in any order; an engine may call it only at the end.

        Raises:
            StaleEngineError: The version is not held.
            ValueError: There are not as many seeds as prompts.
        """
        ...

    def score(
        self, rows: Sequence[ScoreRow], *, version: int, temperature: float = 1.0
    ) -> list[FloatArray]:
        """Log-probabilities of given tokens, by a full forward pass without a cache.

        Args:
            rows: Prompts and completions.
            version: The policy version to score with.
            temperature: Above 0.

        Returns:
            `(T,)` log-probabilities for each row.

        Raises:
            StaleEngineError: The version is not held.
        """
        ...


def seeds_of(seed: int | Sequence[int], count: int) -> Sequence[int]:
    """The seed of each of some prompts, from what `Engine.sample` was given.

    Raises:
        ValueError: There are not as many seeds as prompts.
    """
    if isinstance(seed, int):
        return [seed] * count
    if len(seed) != count:
        raise ValueError(f"There are {len(seed)} seeds for {count} prompts.")
    return seed
