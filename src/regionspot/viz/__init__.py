"""Pictures: named regions, attention maps, training curves, bars."""

from regionspot.viz.attention import draw_attention
from regionspot.viz.curves import (
    TrainingLog,
    draw_ap_bars,
    draw_ap_curve,
    draw_loss_curve,
    find_metrics_csv,
    read_training_log,
)
from regionspot.viz.named_regions import NamedRegion, draw_named_regions

__all__ = [
    "NamedRegion",
    "TrainingLog",
    "draw_ap_bars",
    "draw_ap_curve",
    "draw_attention",
    "draw_loss_curve",
    "draw_named_regions",
    "find_metrics_csv",
    "read_training_log",
]
