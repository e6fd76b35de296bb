"""Algorithms as data: each preset is a set of setting values that a recipe may still override.

A preset throws switches and leaves periods and sizes alone, so that one recipe, with its own v, m
and capacities, serves every algorithm that it is compared under.

`bapo` is the set of defaults (arXiv 2602.20722). The others switch parts of it off or replace them:
GRPO arXiv 2402.03300, DAPO arXiv 2503.14476.
"""

from collections.abc import Mapping
from typing import Any, Final

_NO_BUFFERS: Final = {"retry": False, "reuse": False}
_SYMMETRIC_CLIP: Final = {"clip_high": 0.2}

PRESETS: Final[Mapping[str, Mapping[str, Mapping[str, Any]]]] = {
    "grpo": {
        "adaptation": {"delay_behavior": False, "filter_fresh": False, **_NO_BUFFERS},
        "objective": _SYMMETRIC_CLIP,
    },
    "grpo_delayed": {
        "adaptation": {"filter_fresh": False, **_NO_BUFFERS},
        "objective": _SYMMETRIC_CLIP,
    },
    "filtered": {"adaptation": _NO_BUFFERS},
    "dapo": {
        "adaptation": {"delay_behavior": False, "max_resample_rounds": 9, **_NO_BUFFERS},
    },
    "bapo": {},
    "bapo_no_retry": {"adaptation": {"retry": False}},
    "bapo_no_reuse": {"adaptation": {"reuse": False}},
}
