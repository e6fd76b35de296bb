"""Random numbers that belong to one completion and to nothing else.

The uniforms of a completion follow from (seed, step, prompt id, index) by a counter-based generator
(Philox), so that a completion does not depend on what shares its batch, on the order of the batch,
or on any generator's state; a checkpoint has nothing to keep.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

BLOCK = 64
# Philox makes four 64-bit words per counter value, and a double takes one word.
_COUNTERS_PER_BLOCK = BLOCK // 4
_WORD = (1 << 64) - 1


def completion_key(seed: int, step: int, prompt_id: str, index: int) -> int:
    """The 128-bit Philox key of one completion.

    Args:
        seed: The run's seed.
        step: The training step; evaluations use numbers of their own.
        prompt_id: The prompt's stable name.
        index: Which completion of the group, from 0.
    """
    text = f"{seed}\x1f{step}\x1f{index}\x1f{prompt_id}"
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest()
    return int.from_bytes(digest, "little")


def uniform_block(keys: Sequence[int], block: int) -> npt.NDArray[np.float64]:
    """The uniforms of tokens `block * BLOCK` to `(block + 1) * BLOCK - 1` of several completions.

    Args:
        keys: R completion keys.
        block: Which block of tokens, from 0.

    Returns:
        `(R, BLOCK)` numbers in [0, 1).
    """
    uniforms = np.empty((len(keys), BLOCK), dtype=np.float64)
    # Making a generator asks the system for a seed that a given key then replaces, which takes far
    # longer than the numbers: one is made, and put where the stream of each key begins its block.
    bits = np.random.Philox(key=0, counter=block * _COUNTERS_PER_BLOCK)
    generator = np.random.Generator(bits)
    start: Any = bits.state
    for row, key in zip(uniforms, keys, strict=True):
        start["state"]["key"] = (key & _WORD, key >> 64)
        bits.state = start
        generator.random(out=row)
    return uniforms
