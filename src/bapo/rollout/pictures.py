"""What an image-text model reads besides token ids: pixels, token types, positions.

Records name their pictures and hold none (`bapo.types.ImageReference`). Pixels are made from the
references when a model is about to read them, and kept in a cache of bounded size, so that a group
that waits in a buffer costs its tokens and no more.

Some models (Qwen-VL) count the positions of a picture's tokens along time, height and width, so
that the text after a picture does not stand at the position of its place in the row. The position
of every prompt token is worked out here once, and given to the model with every call: such models
otherwise remember an offset from call to call, and would use one batch's for another.
"""

import inspect
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel, ProcessorMixin
from transformers.modeling_outputs import BaseModelOutputWithPooling

from bapo.errors import DataError
from bapo.rollout.chat import through_template
from bapo.rollout.processors import picture_token_ids
from bapo.types import IMAGE_MARK, ImageReference, IntArray, Prompt

OpenImage = Callable[[ImageReference], Any]
"""Gives the Pillow image of a reference; raises a `DataError` where it cannot be read."""

Shown = tuple[ImageReference, ...]

_CACHE_BYTES = 1 << 29
_TURNS_KEPT = 4096
_SEEN = "mm_encoder_outputs"
_TOKEN_TYPES = ("mm_token_type_ids", "token_type_ids")
_NOT_OF_PICTURES = ("input_ids", "attention_mask", *_TOKEN_TYPES)


@dataclass(frozen=True, slots=True, eq=False)
class PictureInputs:
    """What a model's forward pass takes besides token ids and mask.

    Attributes:
        arguments: By name; `position_ids` only where the model counts positions in its own way.
        shifts: `(N,)` what is added to a row's place to get the position of the tokens after its
            prompt; 0 in most models.
    """

    arguments: Mapping[str, Any]
    shifts: Tensor


class PictureReader:
    """Turns prompts with pictures into token ids, and references into what the model reads.

    Life cycle: made with the policy, kept as long as it. The cache holds the pixels of the prompts
    read last, up to a number of bytes, the one longest unused going first; what is not there is
    made again from its reference, bit for bit. Nothing goes into a checkpoint.

    Args:
        processor: The model's.
        model: Says what its forward pass takes.
        open_image: Makes pictures from references.
        cache_bytes: Bytes of pixels kept at most; what a single prompt needs is always kept.
    """

    def __init__(
        self,
        processor: ProcessorMixin,
        model: PreTrainedModel,
        open_image: OpenImage,
        *,
        cache_bytes: int = _CACHE_BYTES,
    ) -> None:
        self._processor: Any = processor
        self._model: Any = model
        self._open = open_image
        self._room = cache_bytes
        self._cache: OrderedDict[Shown, dict[str, Tensor]] = OrderedDict()
        self._turns: OrderedDict[tuple[Shown, bytes], tuple[Tensor, int]] = OrderedDict()
        self._accepted = inspect.signature(model.forward).parameters
        self._types = next((name for name in _TOKEN_TYPES if name in self._accepted), "")
        self._rope: Any = getattr(getattr(model, "model", None), "get_rope_index", None)
        self._mark = _image_text(self._processor, model.config)
        self._picture_ids = picture_token_ids(self._processor)

    def token_ids(
        self, prompt: Prompt, start: Sequence[int], chat_values: Mapping[str, Any]
    ) -> list[int]:
        """The token ids of a prompt, each picture in it as many tokens as the model sees.

        Args:
            prompt: Plain text or a chat, with pictures or without.
            start: The tokens that the tokenizer puts before every text by itself.
            chat_values: Variables of the chat template.

        Raises:
            DataError: A picture cannot be read, does not fit the text, or is missing.
            ModelError: The prompt is a chat and neither processor nor tokenizer has a template.
        """
        if isinstance(prompt.content, str):
            text, begins = prompt.content.replace(IMAGE_MARK, self._mark), False
        else:
            text = self._chat_text(prompt, chat_values)
            bos = self._processor.tokenizer.bos_token
            begins = bos is not None and text.startswith(bos)
        if not prompt.images:
            ids: list[int] = self._processor.tokenizer(text, add_special_tokens=False)["input_ids"]
            if any(self._types_of(ids)):
                raise DataError(
                    f"The prompt '{prompt.prompt_id}' holds the model's own token for a picture, "
                    "but shows none; give it a picture or take the token out."
                )
            return [*([] if begins else start), *ids]
        encoded = self._processed(text, prompt.images)
        self._keep(prompt.images, self._pixels_of(encoded))
        return [*([] if begins else start), *encoded["input_ids"][0].tolist()]

    def inputs(
        self, rows: Sequence[tuple[Shown, IntArray]], width: int, *, left: bool = False
    ) -> PictureInputs:
        """What the model reads besides token ids for rows of tokens that show pictures.

        Pictures that stand in several rows, as in those of a group, go through the vision tower
        once, here, with gradient where there is any, if the model can be given the outcome.

        Args:
            rows: The pictures and the token ids of each row.
            width: Tokens of the padded rows.
            left: Whether the rows are padded on the left.
        """
        device = self._model.device
        pictured = [shown for shown, _ in rows if shown]
        distinct = [*dict.fromkeys(pictured)]
        arguments: dict[str, Any]
        if len(distinct) < len(pictured) and _SEEN in self._accepted:
            arguments = {_SEEN: {"image": self._seen_once(distinct, pictured)}}
        else:
            arguments = self._joined_pixels(pictured)
        starts = [width - len(ids) if left else 0 for _, ids in rows]
        if self._types and pictured:
            types = torch.zeros((len(rows), width), dtype=torch.long)
            for line, start, (_, ids) in zip(types, starts, rows, strict=True):
                line[start : start + len(ids)] = torch.tensor(self._types_of(ids.tolist()))
            arguments[self._types] = types.to(device)
        shifts = torch.zeros(len(rows), dtype=torch.long)
        if self._rope is not None:
            positions = torch.zeros((3, len(rows), width), dtype=torch.long)
            for number, (start, (shown, ids)) in enumerate(zip(starts, rows, strict=True)):
                own, shifts[number] = self._positions(shown, ids)
                positions[:, number, start : start + len(ids)] = own
            arguments["position_ids"] = positions.to(device)
        return PictureInputs(arguments, shifts.to(device))

    def _joined_pixels(self, pictured: Sequence[Shown]) -> dict[str, Tensor]:
        """The pixels of several prompts, as the model takes them."""
        parts = [self._pixels(shown) for shown in pictured]
        joined = {
            name: _joined([one[name] for one in parts]) for name in (parts[0] if parts else ())
        }
        return {
            name: value.to(
                device=self._model.device,
                dtype=self._model.dtype if value.is_floating_point() else value.dtype,
            )
            for name, value in joined.items()
        }

    def _seen_once(self, distinct: Sequence[Shown], pictured: Sequence[Shown]) -> Any:
        """What the vision tower says of the pictures of each row; each prompt's go through once."""
        found = self._model.get_image_features(**self._joined_pixels(distinct), return_dict=True)
        pieces = [*found.pooler_output]
        # Some models answer with a piece for each picture, others with one for each prompt.
        by_picture = len(pieces) == sum(map(len, distinct))
        counts = [len(shown) if by_picture else 1 for shown in distinct]
        of_prompt: dict[Shown, list[Tensor]] = {}
        for shown, count in zip(distinct, counts, strict=True):
            of_prompt[shown], pieces = pieces[:count], pieces[count:]
        each = tuple(piece for shown in pictured for piece in of_prompt[shown])
        return BaseModelOutputWithPooling(pooler_output=each)  # pyright: ignore[reportArgumentType]

    def _types_of(self, ids: list[int]) -> list[int]:
        """1 for every token that stands for a part of a picture, else 0."""
        return [int(one in self._picture_ids) for one in ids]

    def _positions(self, shown: Shown, ids: IntArray) -> tuple[Tensor, int]:
        """The `(3, P)` positions of a row's tokens, and the shift of those behind its pictures."""
        places = torch.arange(len(ids)).expand(3, -1)
        if not shown:
            return places, 0
        (last,) = np.flatnonzero(np.isin(ids, self._picture_ids))[-1:]
        head = ids[: last + 1].astype(np.int64)
        key = (shown, head.tobytes())
        if key not in self._turns:
            turned, shift = self._rope(
                torch.from_numpy(head)[None],
                mm_token_type_ids=torch.tensor([self._types_of(head.tolist())]),
                image_grid_thw=self._pixels(shown)["image_grid_thw"],
            )
            self._turns[key] = turned[:, 0], int(shift)
            if len(self._turns) > _TURNS_KEPT:
                self._turns.popitem(last=False)
        turned, shift = self._turns[key]
        return torch.cat((turned, places[:, last + 1 :] + shift), dim=1), shift

    def _chat_text(self, prompt: Prompt, chat_values: Mapping[str, Any]) -> str:
        template = self._processor.chat_template or self._processor.tokenizer.chat_template
        messages = [
            {"role": turn.role, "content": _parts(turn.content, bool(prompt.images))}
            for turn in prompt.content
            if not isinstance(turn, str)
        ]
        return through_template(
            self._processor,
            "processor",
            prompt.prompt_id,
            messages,
            template,
            chat_template=template,
            tokenize=False,
            **chat_values,
        )

    def _pixels(self, shown: Shown) -> dict[str, Tensor]:
        if shown not in self._cache:
            self._keep(shown, self._pixels_of(self._processed(self._mark * len(shown), shown)))
        self._cache.move_to_end(shown)
        return self._cache[shown]

    def _processed(self, text: str, shown: Shown) -> Any:
        images = [self._open(one) for one in shown]
        try:
            return self._processor(
                text=[text], images=[images], return_tensors="pt", add_special_tokens=False
            )
        except ValueError as error:
            reason = str(error).strip().splitlines()[0].rstrip(".")
            raise DataError(
                f"The model's processor cannot read the picture '{shown[0].source}' in its prompt: "
                f"{reason}."
            ) from None

    def _pixels_of(self, encoded: Any) -> dict[str, Tensor]:
        return {
            name: torch.as_tensor(value)
            for name, value in encoded.items()
            if name in self._accepted and name not in _NOT_OF_PICTURES
        }

    def _keep(self, shown: Shown, pixels: dict[str, Tensor]) -> None:
        before = self._cache.pop(shown, {})
        self._room += _size(before)
        self._cache[shown] = pixels
        self._room -= _size(pixels)
        while self._room < 0 and len(self._cache) > 1:
            self._room += _size(self._cache.popitem(last=False)[1])


def _size(pixels: Mapping[str, Tensor]) -> int:
    return sum(value.nbytes for value in pixels.values())


def _parts(content: str, marked: bool) -> list[dict[str, str]]:
    """A turn as the parts that chat templates of image-text models take."""
    texts = content.split(IMAGE_MARK) if marked else [content]
    parts: list[dict[str, str]] = []
    for number, text in enumerate(texts):
        parts += [{"type": "image"}] if number else []
        parts += [{"type": "text", "text": text}] if text else []
    return parts


def _image_text(processor: Any, config: Any) -> str:
    """How a picture is written in a plain text for this model."""
    token = processor.image_token
    edges = [getattr(config, f"vision_{end}_token_id", None) for end in ("start", "end")]
    names = [processor.tokenizer.convert_ids_to_tokens(edge) for edge in edges if edge is not None]
    if len(names) == len(edges) and None not in names:
        return f"{names[0]}{token}{names[1]}"
    return token


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Tensors one after another along their first axis, zeros filling up the others.

    Models whose rows may show different numbers of pictures know a picture of zeros as none.
    """
    shape = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
    filled = [
        functional.pad(
            part,
            [
                n
                for size, wanted in zip(reversed(part.shape[1:]), reversed(shape), strict=True)
                for n in (0, wanted - size)
            ],
        )
        if list(part.shape[1:]) != shape
        else part
        for part in parts
    ]
    return torch.cat(filled)
