"""Completions of one prompt behind a single copy of it, so that the prompt is computed once.

A pack is one sequence: the prompt, then the completions one after the other. Attention, or a mask,
lets each completion see the prompt and itself, and position ids count every completion on from the
prompt's end, so what the model computes for a token is what it would compute in a row of its own.
The last token of a completion predicts nothing that is needed and is left out.

A pack saves the prompt's tokens. Under a mask it pays with attention between completions that is
computed and masked away: which of the two weighs more depends on the lengths and the model, and
`packs` compares. Attention that knows packs computes nothing in vain, and all that fit share.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from bapo.training.batching import Row

LONGEST_PACK = 8192
"""Tokens of a pack of several completions at most; its mask holds the square of that."""


@dataclass(frozen=True)
class Pack:
    """Rows that share their prompt, read as one sequence.

    Attributes:
        rows: At least one.
    """

    rows: tuple[Row, ...]

    @cached_property
    def length(self) -> int:
        """Tokens that the model reads: the prompt once, completions without their last token."""
        return _length(self.rows)

    @property
    def is_shared(self) -> bool:
        """Whether more than one completion stands behind the prompt."""
        return len(self.rows) > 1

    def starts(self) -> Iterator[tuple[Row, int]]:
        """Each row with the place of its completion's first token in the sequence."""
        start = len(self.rows[0].prompt)
        for row in self.rows:
            yield row, start
            start += len(row.completion) - 1


def packs(rows: Sequence[Row], pair_cost: float | None, longest: int) -> list[Pack]:
    """Rows as packs: those of one prompt together, as many as pay.

    Args:
        rows: In any order; rows with equal prompt tokens share.
        pair_cost: What attention between two tokens costs, in units of what everything else costs
            for one token; see `attention_pair_cost`. 0 where none is masked away, None packs
            every row by itself.
        longest: Tokens of a pack of several rows at most.
    """
    if pair_cost is None:
        return [Pack((row,)) for row in rows]
    by_prompt: dict[bytes, list[Row]] = {}
    for row in rows:
        by_prompt.setdefault(row.prompt.tobytes(), []).append(row)
    limit = min(longest, LONGEST_PACK)
    return [pack for same in by_prompt.values() for pack in _cheapest(same, pair_cost, limit)]


def attention_pair_cost(config: Any, parameters: int) -> float:
    """Operations of attention for a pair of tokens, over those of all else for one token.

    Scores and values take 4 operations for a pair of tokens in each dimension of each head of each
    layer; everything else 2 for a token and parameter.

    Args:
        config: The model's (text) configuration.
        parameters: Its parameters without embeddings.
    """
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return 2.0 * config.num_hidden_layers * heads * size / parameters


def _cheapest(rows: Sequence[Row], pair_cost: float, limit: int) -> list[Pack]:
    """The rows of one prompt in 1, 2, 4, ... packs of like size, whichever costs least."""
    best: list[Pack] = []
    least = np.inf
    count = 1
    while True:
        count = min(count, len(rows))
        bounds = np.linspace(0, len(rows), count + 1).round().astype(int).tolist()
        made = [Pack(tuple(rows[a:b])) for a, b in pairwise(bounds)]
        cost = sum(_cost(pack, pair_cost) for pack in made)
        fits = all(pack.length <= limit for pack in made if pack.is_shared)
        if fits and cost < least:
            best, least = made, cost
        if count == len(rows):
            return best
        count *= 2


def _cost(pack: Pack, pair_cost: float) -> float:
    """Half of all pairs are skipped by the causal attention of a row by itself, none by a mask."""
    pairs = pack.length**2 * (1.0 if pack.is_shared else 0.5)
    return pack.length + pair_cost * pairs


def _length(rows: Sequence[Row]) -> int:
    return len(rows[0].prompt) + sum(len(row.completion) - 1 for row in rows)
