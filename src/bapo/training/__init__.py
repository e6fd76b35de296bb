"""The learner, the loop, and whole runs."""

from bapo.training.comparison import planned_runs, train_unless_finished
from bapo.training.learner import Learner
from bapo.training.loop import Loop, StepRecord
from bapo.training.metrics import METRIC_KEYS, Metric
from bapo.training.progress import Progress, Silence
from bapo.training.prompt_stream import PromptStream
from bapo.training.run import train
from bapo.training.update_report import UpdateReport
from bapo.training.warmstart import warmstart

__all__ = [
    "METRIC_KEYS",
    "Learner",
    "Loop",
    "Metric",
    "Progress",
    "PromptStream",
    "Silence",
    "StepRecord",
    "UpdateReport",
    "planned_runs",
    "train",
    "train_unless_finished",
    "warmstart",
]
