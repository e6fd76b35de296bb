"""Algorithms as data: each preset is a set of setting values that a recipe may still override.

`bapo` is the set of defaults (arXiv 2602.20722). The others switch parts of it off or replace them:
GRPO arXiv 2402.03300, DAPO arXiv 2503.14476.
"""

from collections.abc import Mapping
from typing import Any, Final

_NO_BUFFERS: Final = {"retry": False, "reuse": False}
_SYMMETRIC_CLIP: Final = {"clip_high": 0.2}

PRESETS: Final[Mapping[str, Mapping[str, Mapping[str, Any]]]] = {
    "grpo": {
        "adaptation": {"behavior_sync_every": 1, "filter_fresh": False, **_NO_BUFFERS},
        "objective": _SYMMETRIC_CLIP,
    },
    "grpo_delayed": {
        "adaptation": {"behavior_sync_every": 5, "filter_fresh": False, **_NO_BUFFERS},
        "objective": _SYMMETRIC_CLIP,
    },
    "filtered": {"adaptation": _NO_BUFFERS},
    "dapo": {
        "adaptation": {"behavior_sync_every": 1, "max_resample_rounds": 9, **_NO_BUFFERS},
    },
    "bapo": {},
    "bapo_no_retry": {"adaptation": {"retry": False}},
    "bapo_no_reuse": {"adaptation": {"reuse": False}},
}
