"""Training of the fusion head with Lightning."""

from regionspot.training.module import RegionSpotModule, ValidationOutput
from regionspot.training.options import (
    ClassifierOptions,
    HeadOptions,
    LossOptions,
    OptimizerOptions,
    ScheduleOptions,
)
from regionspot.training.throughput import Throughput

__all__ = [
    "ClassifierOptions",
    "HeadOptions",
    "LossOptions",
    "OptimizerOptions",
    "RegionSpotModule",
    "ScheduleOptions",
    "Throughput",
    "ValidationOutput",
]
