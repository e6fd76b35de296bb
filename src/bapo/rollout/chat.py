"""Chats through a model's chat template."""

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from bapo.errors import ModelError


def through_template(
    owner: Any,
    kind: str,
    prompt_id: str,
    messages: Sequence[Mapping[str, Any]],
    template: Any,
    **arguments: Any,
) -> Any:
    """A chat through a template, with the opening of the assistant's turn at its end.

    Args:
        owner: The tokenizer or processor that applies it.
        kind: Which of the two it is, in words.
        prompt_id: Whose chat it is.
        messages: `{"role": ..., "content": ...}`, in order.
        template: The template that will be taken; empty or None where there is none.
        arguments: Of `apply_chat_template`, and the template's own variables.

    Returns:
        What `apply_chat_template` gives for the arguments.

    Raises:
        ModelError: There is no template, or it refuses the chat.
    """
    if not template:
        raise ModelError(
            f"The prompt '{prompt_id}' is a chat, but the model's {kind} has no chat template; use "
            "an instruction model or plain-text prompts."
        )
    try:
        return owner.apply_chat_template(messages, add_generation_prompt=True, **arguments)
    except TemplateError as error:  # templates run in a sandbox, which may refuse them
        raise ModelError(
            f"The chat template of the model's {kind} refuses the prompt '{prompt_id}' "
            f"({str(error).rstrip('.')}); correct the template or the prompt."
        ) from None
