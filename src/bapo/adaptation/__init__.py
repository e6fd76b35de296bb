"""Filter, hard buffer, reuse buffer, band and composer: which groups a step learns from."""

from bapo.adaptation.adaptation import Adaptation
from bapo.adaptation.bands import Band, PolicyStrength, reuse_band
from bapo.adaptation.hard_buffer import HardBuffer
from bapo.adaptation.records import (
    BufferEvent,
    BufferEventKind,
    Composition,
    GroupFate,
    GroupOutcome,
    SuspectPrompt,
)
from bapo.adaptation.reuse_buffer import ReuseBuffer
from bapo.adaptation.staleness import StepDistances
from bapo.adaptation.state import (
    groups_from_tree,
    groups_to_tree,
    prompt_from_tree,
    prompt_to_tree,
)

__all__ = [
    "Adaptation",
    "Band",
    "BufferEvent",
    "BufferEventKind",
    "Composition",
    "GroupFate",
    "GroupOutcome",
    "HardBuffer",
    "PolicyStrength",
    "ReuseBuffer",
    "StepDistances",
    "SuspectPrompt",
    "groups_from_tree",
    "groups_to_tree",
    "prompt_from_tree",
    "prompt_to_tree",
    "reuse_band",
]
