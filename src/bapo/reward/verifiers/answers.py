"""Where the answer stands in a completion; shared by verifiers, standard library only."""

from typing import Final

_OPEN: Final = "<answer>"
_CLOSE: Final = "</answer>"


def tagged_answer(text: str) -> str | None:
    """What stands in the last closed answer tag, or else after the last open one.

    An open tag counts because `</answer>` may be a stop string, which is not part of the text.
    """
    start = text.rfind(_OPEN, 0, max(0, text.rfind(_CLOSE)))
    if start < 0:
        start = text.rfind(_OPEN)
    if start < 0:
        return None
    return text[start + len(_OPEN) :].partition(_CLOSE)[0]
