"""Keeps transformers' progress bars away while bapo itself loads or saves a model."""

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.utils import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)
from transformers.utils import logging


@contextmanager
def without_bars() -> Iterator[None]:
    """No bars of transformers within, and afterwards what the user had; downloads keep theirs."""
    shown, downloads_shown = logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    logging.disable_progress_bar()  # the Hub's too
    if downloads_shown:
        enable_progress_bars()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # the Hub's too
            if not downloads_shown:
                disable_progress_bars()
