"""Finds where a completion ends: at an end token or at a stop string."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bapo.rollout.encoding import PromptEncoder
from bapo.types import IntArray

# What a decoder writes for a character of which it has only some of the bytes.
_PARTIAL = "\ufffd"


class StopDetector:
    """Tells after each token which rows have ended.

    Decoding every row after every token would cost more than the model. A stop string can only
    become complete with a token whose own text holds its last character (or part of a character),
    so only rows that have just received such a token are decoded.
    """

    def __init__(
        self,
        encoder: PromptEncoder,
        end_token_ids: Sequence[int],
        stop: Sequence[str],
        vocabulary: int,
    ) -> None:
        """Makes a detector.

        Args:
            encoder: Decodes completions.
            end_token_ids: Every token that ends a completion.
            stop: Texts that end a completion. One that is a special token, such as `<|im_end|>`, is
                not in decoded text, and makes the token an end token.
            vocabulary: Tokens that the model can sample; may be more than the tokenizer knows.
        """
        self._encoder = encoder
        added: dict[int, Any] = encoder.tokenizer.added_tokens_decoder
        special = {token.content: number for number, token in added.items() if token.special}
        ends = [*end_token_ids, *(special[text] for text in stop if text in special)]
        self._stop = tuple(text for text in stop if text not in special)
        self._ends = np.zeros(vocabulary, dtype=np.bool_)
        self._ends[[token for token in ends if token < vocabulary]] = True
        self._may_complete = self._completing_tokens(vocabulary) if self._stop else None

    def ended(self, token_ids: IntArray) -> npt.NDArray[np.bool_]:
        """`(R,)` whether each of `(R,)` tokens is an end token."""
        return self._ends[token_ids]

    def may_complete(self, token_ids: IntArray) -> npt.NDArray[np.intp]:
        """The rows whose newest token may have completed a stop string."""
        if self._may_complete is None:
            return np.empty(0, dtype=np.intp)
        return np.flatnonzero(self._may_complete[token_ids])

    def has_stop(self, token_ids: IntArray) -> bool:
        """Whether the text of a whole completion holds a stop string."""
        text = self._encoder.decode(token_ids)
        return any(stop in text for stop in self._stop)

    def cut(self, text: str) -> str:
        """The text before its first stop string."""
        found = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        return text[: min(found)] if found else text

    def _completing_tokens(self, vocabulary: int) -> npt.NDArray[np.bool_]:
        """`(V,)` which tokens may complete a stop string.

        Each token is decoded behind another one, since some decoders drop a leading space.
        """
        known = max(self._encoder.tokenizer.get_vocab().values()) + 1
        count = min(known, vocabulary)
        lead = next(
            token for token in range(count) if self._encoder.decode([token]).strip(_PARTIAL)
        )
        skip = len(self._encoder.decode([lead]))
        texts = self._encoder.decode_all([[lead, token] for token in range(count)])
        last = {stop[-1] for stop in self._stop} | {_PARTIAL}
        may_complete = np.zeros(vocabulary, dtype=np.bool_)
        may_complete[:count] = [not last.isdisjoint(text[skip:]) for text in texts]
        return may_complete
