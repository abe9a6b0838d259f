"""Training of the fusion head with Lightning."""

from regionspot.model import HeadOptions
from regionspot.training.callbacks import kill_launched_ranks
from regionspot.training.checkpoints import (
    SealedCheckpointIO,
    find_checkpoint,
    remove_strays,
)
from regionspot.training.heads import export_head
from regionspot.training.module import RegionSpotModule, ValidationOutput
from regionspot.training.recipe import (
    ClassifierOptions,
    LossOptions,
    OptimizerOptions,
    ScheduleOptions,
)
from regionspot.training.throughput import (
    SUMMARY_NAME,
    ImagesPerSecond,
    LossByCache,
    TrainingSummary,
    summarize,
)

__all__ = [
    "SUMMARY_NAME",
    "ClassifierOptions",
    "HeadOptions",
    "ImagesPerSecond",
    "LossByCache",
    "LossOptions",
    "OptimizerOptions",
    "RegionSpotModule",
    "ScheduleOptions",
    "SealedCheckpointIO",
    "TrainingSummary",
    "ValidationOutput",
    "export_head",
    "find_checkpoint",
    "kill_launched_ranks",
    "remove_strays",
    "summarize",
]
