"""Training of the fusion head with Lightning."""

from regionspot.training.checkpoints import (
    SealedCheckpointIO,
    find_checkpoint,
    remove_strays,
)
from regionspot.training.export import export_head
from regionspot.training.launched import kill_launched_ranks
from regionspot.training.loss_by_cache import LossByCache
from regionspot.training.module import RegionSpotModule
from regionspot.training.options import (
    ClassifierOptions,
    HeadOptions,
    LossOptions,
    OptimizerOptions,
    ScheduleOptions,
)
from regionspot.training.outputs import ValidationOutput
from regionspot.training.summary import SUMMARY_NAME, TrainingSummary, summarize
from regionspot.training.throughput import Throughput

__all__ = [
    "SUMMARY_NAME",
    "ClassifierOptions",
    "HeadOptions",
    "LossByCache",
    "LossOptions",
    "OptimizerOptions",
    "RegionSpotModule",
    "ScheduleOptions",
    "SealedCheckpointIO",
    "Throughput",
    "TrainingSummary",
    "ValidationOutput",
    "export_head",
    "find_checkpoint",
    "kill_launched_ranks",
    "remove_strays",
    "summarize",
]
