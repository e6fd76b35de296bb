"""Samples completions: engines, policy versions, and how a policy is loaded."""

from bapo.rollout.embedded import EmbeddedEngine
from bapo.rollout.encoding import PromptEncoder
from bapo.rollout.engine import Engine, ScoreRow
from bapo.rollout.loading import Policy, embedded_models, load_policy
from bapo.rollout.probe import check_engine, probe_rows
from bapo.rollout.versions import DelayedPolicy

__all__ = [
    "DelayedPolicy",
    "EmbeddedEngine",
    "Engine",
    "Policy",
    "PromptEncoder",
    "ScoreRow",
    "check_engine",
    "embedded_models",
    "load_policy",
    "probe_rows",
]
