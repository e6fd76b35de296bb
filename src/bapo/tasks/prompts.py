"""How a row of a user's data becomes a prompt."""

import hashlib
import json
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, cast

from bapo.errors import SettingError
from bapo.tasks.image_cells import picture_name
from bapo.types import IMAGE_MARK, ChatMessage, ImageKind, ImageReference, Prompt

_ROLES: Final = ("system", "user", "assistant", "developer", "tool")
_RESERVED: Final = "completions"
_MOST_NAMES: Final = 20


class UnusableRowError(ValueError):
    """A row cannot become a prompt; the message is the reason, with the cure."""


@dataclass(frozen=True, slots=True)
class PromptShape:
    """Which columns mean what; the fields are those of `DatasetSettings`."""

    prompt_column: str = "prompt"
    template: str = ""
    id_column: str = ""
    level_column: str = ""
    system_prompt: str = ""
    chat: bool = False
    image_column: str = ""


class Template:
    """A text with `{column}` fields, filled with a row's values and nothing else.

    A field is the name of a column as it stands: no attributes, no indices, no format, so that a
    template cannot reach into what it is given. `{{` and `}}` are braces.

    Args:
        text: The template.

    Raises:
        SettingError: A brace is not closed, a field is empty, or has a format or a conversion.
    """

    def __init__(self, text: str) -> None:
        try:
            parts = [*string.Formatter().parse(text)]
        except ValueError as error:
            raise SettingError(
                f"'task.template' has a single brace ({error}); write {{column}} for a value and "
                "{{ or }} for a brace."
            ) from None
        for _, field, spec, conversion in parts:
            if field == "" or spec or conversion:
                raise SettingError(
                    f"'task.template' has the field {_field_text(field, spec, conversion)}, but a "
                    "field is a column's name alone, as in {question}; braces are {{ and }}."
                )
        self._parts = [(literal, field) for literal, field, _, _ in parts]
        self.fields = tuple(dict.fromkeys(field for _, field in self._parts if field is not None))
        if not self.fields:
            raise SettingError(
                "'task.template' names no column, so that every prompt would be the same; write "
                "{column} where a row's value belongs."
            )

    def fill(self, values: Mapping[str, Any]) -> str:
        """The text for one row; texts go in as they are, other values as JSON.

        Raises:
            UnusableRowError: A column is missing or null.
        """
        pieces: list[str] = []
        for literal, field in self._parts:
            pieces.append(literal)
            if field is not None:
                value = _value(values, field, "task.template")
                pieces.append(value if isinstance(value, str) else _json(value))
        return "".join(pieces)


class PromptBuilder:
    """Makes prompts of rows.

    Args:
        shape: Which columns mean what.

    Raises:
        SettingError: The template is malformed.
    """

    def __init__(self, shape: PromptShape) -> None:
        self._shape = shape
        self._template = Template(shape.template) if shape.template else None

    def build(self, values: Mapping[str, Any]) -> Prompt:
        """The prompt of one row; columns without a meaning of their own go to the verifier.

        Args:
            values: The row, JSON values by column.

        Raises:
            UnusableRowError: A column is missing, or holds a value that cannot be used.
            SettingError: There is a system prompt, but the row's prompt is no chat.
        """
        shape = self._shape
        if _RESERVED in values:
            raise UnusableRowError(
                f"it has a column '{_RESERVED}', the name under which a verifier is given the "
                "answers; rename it"
            )
        images = self._images(values)
        content = _marked(self._content(values), len(images))
        meant = {shape.id_column, shape.level_column, shape.image_column}
        meant |= set() if self._template else {shape.prompt_column}
        columns = {name: value for name, value in values.items() if name not in meant}
        name = self._named(values) if shape.id_column else _content_name(content, columns, images)
        return Prompt(name, content, columns, self._level(values), images)

    def repeated(self, prompt_id: str, first: str) -> str:
        """Why a row cannot be used whose id is that of the row at `first`."""
        column = self._shape.id_column
        if column:
            return f"it has the {column!r} {prompt_id!r}, as {first} has; give each its own"
        return f"it is the same as {first}; remove one, or tell them apart by 'task.id_column'"

    def _content(self, values: Mapping[str, Any]) -> str | tuple[ChatMessage, ...]:
        shape = self._shape
        if self._template:
            given: Any = self._template.fill(values)
        else:
            given = _value(values, shape.prompt_column, "task.prompt_column")
        if isinstance(given, str):
            if not given.strip():
                raise UnusableRowError("its prompt is empty; write one or remove the row")
            if not shape.chat:
                if shape.system_prompt:
                    raise SettingError(
                        "'task.system_prompt' is set, but the prompts are plain text, which has "
                        "no place for it; set 'task.chat' to true."
                    )
                return given
            messages = (ChatMessage("user", given),)
        else:
            messages = _messages(given, shape.prompt_column)
        if shape.system_prompt and messages[0].role not in ("system", "developer"):
            messages = (ChatMessage("system", shape.system_prompt), *messages)
        return messages

    def _images(self, values: Mapping[str, Any]) -> tuple[ImageReference, ...]:
        column = self._shape.image_column
        if not column:
            return ()
        found = _value(values, column, "task.image_column")
        return tuple(
            ImageReference(ImageKind(kind), source, detail) for kind, source, detail in found
        )

    def _named(self, values: Mapping[str, Any]) -> str:
        column = self._shape.id_column
        value = _value(values, column, "task.id_column")
        if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
            raise UnusableRowError(
                f"its {column!r} is {_shown(value)}, but an id is a text or a whole number"
            )
        return str(value)

    def _level(self, values: Mapping[str, Any]) -> str:
        column = self._shape.level_column
        if not column:
            return ""
        value = _value(values, column, "task.level_column")
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise UnusableRowError(
                f"its {column!r} is {_shown(value)}, but a level is a text or a number"
            )
        return str(value)


def _messages(given: Any, column: str) -> tuple[ChatMessage, ...]:
    """A chat prompt from a list of `{role, content}`, ending where the model is to answer."""
    if not isinstance(given, list) or not given:
        raise UnusableRowError(
            f"its {column!r} is {_shown(given)}, but a prompt is a text or a list of "
            "{role, content}"
        )
    messages = tuple(_message(turn, column) for turn in cast("list[Any]", given))
    if messages[-1].role == "assistant":
        raise UnusableRowError(
            f"its {column!r} ends with a message of the assistant, so that the answer stands in "
            "the prompt; leave that message out"
        )
    return messages


def _message(turn: Any, column: str) -> ChatMessage:
    if isinstance(turn, dict):
        fields = {key: v for key, v in cast("dict[str, Any]", turn).items() if v is not None}
        role, content = fields.get("role"), fields.get("content")
        if (
            fields.keys() == {"role", "content"}
            and role in _ROLES
            and isinstance(content, str)
            and content.strip()
        ):
            return ChatMessage(role, content)
    raise UnusableRowError(
        f"its {column!r} holds the message {_shown(turn)}, but a message has a role (one of "
        f"{', '.join(_ROLES)}) and a content that is a text, and nothing else"
    )


def _value(values: Mapping[str, Any], column: str, named_by: str) -> Any:
    """The value of a column that the recipe names."""
    if column not in values:
        raise UnusableRowError(
            f"it has no column {column!r}, only {_listed(values)}; correct '{named_by}'"
        )
    value = values[column]
    if value is None:
        raise UnusableRowError(f"its {column!r} is empty (null); fill it or remove the row")
    return value


def _marked(content: str | tuple[ChatMessage, ...], pictures: int) -> str | tuple[ChatMessage, ...]:
    """The content with a mark for each picture: those that it has, or else all at its start.

    Raises:
        UnusableRowError: It has marks, but not one for each picture.
    """
    if not pictures:
        return content
    texts = [content] if isinstance(content, str) else [turn.content for turn in content]
    marks = sum(text.count(IMAGE_MARK) for text in texts)
    if marks == pictures:
        return content
    if marks:
        raise UnusableRowError(
            f"its prompt has {marks} times {IMAGE_MARK}, but there are {pictures} pictures; write "
            "it once for each"
        )
    if isinstance(content, str):
        return IMAGE_MARK * pictures + content
    first = next((n for n, turn in enumerate(content) if turn.role == "user"), 0)
    shown = replace(content[first], content=IMAGE_MARK * pictures + content[first].content)
    return (*content[:first], shown, *content[first + 1 :])


def _content_name(
    content: str | tuple[ChatMessage, ...],
    columns: Mapping[str, Any],
    images: Sequence[ImageReference],
) -> str:
    """A name that follows from what the row holds, and not from its place."""
    turns = content if isinstance(content, str) else [[m.role, m.content] for m in content]
    text = _json([turns, columns, *map(picture_name, images)])
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _listed(names: Iterable[str]) -> str:
    shown = [repr(name) for name in names]
    more = len(shown) - _MOST_NAMES
    return ", ".join(shown[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "") or "none"


def _field_text(field: str | None, spec: str | None, conversion: str | None) -> str:
    after = (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
    return "{" + (field or "") + after + "}"
