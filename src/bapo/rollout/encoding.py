"""Turns prompts into token ids and completions back into text."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from bapo.errors import DataError, ModelError, SettingError
from bapo.rollout.chat import through_template
from bapo.rollout.pictures import PictureReader
from bapo.types import ChatMessage, IntArray, Prompt

_NAMED_AT_MOST = 3
# Texts given to the tokenizer at once: it keeps far more of each than the ids until it has all.
_TEXTS_AT_ONCE = 1024


class PromptEncoder:
    """Encodes prompts for one tokenizer, and knows how long they may be.

    Plain text is taken as it is, without added special tokens, but for a BOS token where the
    tokenizer puts one before every text by itself. A chat goes through the chat template, with the
    opening of the assistant's turn at its end.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_prompt_tokens: int,
        max_positions: int | None,
        max_new_tokens: int,
        pictures: PictureReader | None = None,
        chat_values: Mapping[str, Any] | None = None,
    ) -> None:
        """Makes an encoder.

        Args:
            tokenizer: The model's tokenizer.
            max_prompt_tokens: The setting of that name.
            max_positions: Positions of the model; None where it sets no limit.
            max_new_tokens: The setting of that name; prompt and completion share the positions.
            pictures: Encodes the prompts of an image-text model; None for a model of text alone.
            chat_values: `rollout.chat_template_kwargs`: variables of the chat template.

        Raises:
            SettingError: The new tokens alone fill the model's positions, or a value has the name
                of an argument that is not the template's.
        """
        self.tokenizer = tokenizer
        self.pictures = pictures
        self._chat_values = dict(chat_values or {})
        taken = inspect.signature(tokenizer.apply_chat_template).parameters
        for name in self._chat_values:
            if name in taken:
                raise SettingError(
                    f"'rollout.chat_template_kwargs' has the name '{name}', which is an argument "
                    "of apply_chat_template itself; give variables of the template alone, such as "
                    "enable_thinking."
                )
        self.limit = max_prompt_tokens
        if max_positions is not None:
            self.limit = min(max_prompt_tokens, max_positions - max_new_tokens)
            if self.limit < 1:
                raise SettingError(
                    f"'rollout.max_new_tokens' is {max_new_tokens}, but the model has only "
                    f"{max_positions} positions for prompt and completion together; lower it, for "
                    f"example to {max_positions // 2}."
                )
        self._start = self._start_tokens()
        self._decodes_alone = _decodes_alone(tokenizer)

    def encode(self, prompt: Prompt) -> IntArray:
        """The `(P,)` token ids of a prompt, as the model reads it.

        Raises:
            DataError: The prompt shows a picture that cannot be read.
            ModelError: The prompt is a chat and the tokenizer has no chat template, or it shows
                pictures and the model reads text alone.
        """
        return self.encode_all([prompt])[0]

    def encode_all(self, prompts: Sequence[Prompt]) -> list[IntArray]:
        """The `(P,)` token ids of each prompt, as by `encode`; plain texts are encoded together.

        Raises:
            DataError: As for `encode`, of the first prompt of which it is true.
            ModelError: Likewise.
        """
        return [self._apart(prompt) if ids is None else ids for prompt, ids in self._plain(prompts)]

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Refuses prompts that no completion can be sampled for, before anything is sampled.

        Raises:
            DataError: There are no prompts, or some have no tokens or too many.
            ModelError: A prompt is a chat and the tokenizer has no chat template.
        """
        if not prompts:
            raise DataError("There are no prompts; the data set is empty.")
        lengths = [len(ids) for ids in self.encode_all(prompts)]
        empty = [prompt for prompt, size in zip(prompts, lengths, strict=True) if size == 0]
        if empty:
            raise DataError(
                f"{len(empty)} of {len(prompts)} prompts have no tokens: {_names(empty)}; "
                "give them a text or take them out."
            )
        long = [prompt for prompt, size in zip(prompts, lengths, strict=True) if size > self.limit]
        if long:
            raise DataError(
                f"{len(long)} of {len(prompts)} prompts are longer than {self.limit} tokens (the "
                f"longest has {max(lengths)}): {_names(long)}; shorten them, raise "
                "'rollout.max_prompt_tokens', or lower 'rollout.max_new_tokens' if the model's "
                "positions are the limit."
            )

    def faults(self, prompts: Sequence[Prompt]) -> dict[str, str]:
        """Why prompts cannot be sampled for, with the cure, by the id of each that cannot.

        Raises:
            ModelError: A prompt is a chat and the tokenizer has no chat template.
        """
        found: dict[str, str] = {}
        for prompt, ids in self._plain(prompts):
            try:
                size = len(self._apart(prompt) if ids is None else ids)
            except DataError as error:
                found[prompt.prompt_id] = _as_clause(error)
                continue
            if size == 0:
                found[prompt.prompt_id] = "its prompt has no tokens; give it a text"
            elif size > self.limit:
                found[prompt.prompt_id] = (
                    f"its prompt has {size} tokens, more than the {self.limit} that fit; shorten "
                    "it, raise 'rollout.max_prompt_tokens', or lower 'rollout.max_new_tokens' if "
                    "the model's positions are the limit"
                )
        return found

    def decode(self, token_ids: Sequence[int] | IntArray) -> str:
        """The text of some tokens, without special tokens."""
        return self.decode_all([token_ids])[0]

    def decode_all(self, rows: Sequence[Sequence[int] | IntArray]) -> list[str]:
        """The texts of several rows of tokens, without special tokens."""
        lists = [row.tolist() if isinstance(row, np.ndarray) else list(row) for row in rows]
        tokenizer: Any = self.tokenizer
        if self._decodes_alone:
            decode = tokenizer.backend_tokenizer.decode
            return [decode(ids, skip_special_tokens=True) for ids in lists]
        texts: Any = tokenizer.batch_decode(
            lists, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return texts

    def _plain(self, prompts: Sequence[Prompt]) -> Iterator[tuple[Prompt, IntArray | None]]:
        """Every prompt with its token ids if it is a plain text, else with None."""
        for first in range(0, len(prompts), _TEXTS_AT_ONCE):
            part = prompts[first : first + _TEXTS_AT_ONCE]
            texts = {
                number: prompt.content
                for number, prompt in enumerate(part)
                if self.pictures is None and not prompt.images and isinstance(prompt.content, str)
            }
            found: dict[int, IntArray] = {}
            if texts:
                encoded: Any = self.tokenizer(list(texts.values()), add_special_tokens=False)
                for number, ids in zip(texts, encoded["input_ids"], strict=True):
                    found[number] = np.asarray([*self._start, *ids], dtype=np.int32)
            for number, prompt in enumerate(part):
                yield prompt, found.get(number)

    def _apart(self, prompt: Prompt) -> IntArray:
        """The token ids of a prompt that is encoded by itself."""
        if self.pictures is not None:
            ids = self.pictures.token_ids(prompt, self._start, self._chat_values)
        elif prompt.images:
            raise ModelError(
                f"The prompt '{prompt.prompt_id}' shows a picture, but the model reads text alone "
                "or has no processor; name an image-text model saved with its processor."
            )
        else:
            assert not isinstance(prompt.content, str)
            ids = self._chat(prompt.prompt_id, prompt.content)
        return np.asarray(ids, dtype=np.int32)

    def _chat(self, prompt_id: str, chat: Sequence[ChatMessage]) -> list[int]:
        encoded = through_template(
            self.tokenizer,
            "tokenizer",
            prompt_id,
            [{"role": turn.role, "content": turn.content} for turn in chat],
            self.tokenizer.chat_template,
            tokenize=True,
            return_dict=True,
            **self._chat_values,
        )
        return encoded["input_ids"]

    def _start_tokens(self) -> list[Any]:
        """The BOS token, if the tokenizer puts it before a text by itself."""
        bos = self.tokenizer.bos_token_id
        encoded: Any = self.tokenizer("")
        ids = encoded["input_ids"]
        return [bos] if bos is not None and ids and ids[0] == bos else []


def _decodes_alone(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer's text is what its backend makes of the tokens, and no more.

    Transformers then adds nothing but time, several times what the backend takes.
    """
    return isinstance(tokenizer, PreTrainedTokenizerFast) and all(
        getattr(getattr(tokenizer, name), "__func__", None)
        is getattr(PreTrainedTokenizerFast, name)
        for name in ("batch_decode", "decode", "_decode")
    )


def _as_clause(error: DataError) -> str:
    """An error's sentence as a reason that others may go on from."""
    sentence = str(error).rstrip(".")
    return sentence[:1].lower() + sentence[1:]


def _names(prompts: Sequence[Prompt]) -> str:
    """The first few prompt ids, quoted."""
    named = ", ".join(f"'{prompt.prompt_id}'" for prompt in prompts[:_NAMED_AT_MOST])
    return named + (" and others" if len(prompts) > _NAMED_AT_MOST else "")
