"""Samples completions: engines, policy versions, and how a policy is loaded."""

from bapo.rollout.adapters import (
    add_adapter,
    has_adapter,
    is_adapter_folder,
    is_quantised,
    merge_adapter,
    save_adapter,
)
from bapo.rollout.bars import without_bars
from bapo.rollout.embedded import EmbeddedEngine
from bapo.rollout.encoding import PromptEncoder
from bapo.rollout.engine import Engine, ScoreRow
from bapo.rollout.loading import Policy, embedded_models, load_policy
from bapo.rollout.native import address, compiled, why_no_kernels
from bapo.rollout.pictures import OpenImage, PictureReader
from bapo.rollout.probe import check_engine, probe_rows
from bapo.rollout.processors import image_only
from bapo.rollout.versions import DelayedPolicy

__all__ = [
    "DelayedPolicy",
    "EmbeddedEngine",
    "Engine",
    "OpenImage",
    "PictureReader",
    "Policy",
    "PromptEncoder",
    "ScoreRow",
    "add_adapter",
    "address",
    "check_engine",
    "compiled",
    "embedded_models",
    "has_adapter",
    "image_only",
    "is_adapter_folder",
    "is_quantised",
    "load_policy",
    "merge_adapter",
    "probe_rows",
    "save_adapter",
    "why_no_kernels",
    "without_bars",
]
