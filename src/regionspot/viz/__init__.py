"""Pictures: named regions, attention maps, training curves, bars."""

from regionspot.viz.attention import draw_attention
from regionspot.viz.contact_sheet import NamedPhoto, draw_contact_sheet
from regionspot.viz.curves import (
    TrainingLog,
    draw_ap_bars,
    draw_ap_curve,
    draw_loss_curve,
    find_metrics_csv,
    read_training_log,
)
from regionspot.viz.guidance import draw_guidance
from regionspot.viz.named_regions import NamedRegion, draw_numbered_regions
from regionspot.viz.quality import draw_precision_recall, draw_reliability

__all__ = [
    "NamedPhoto",
    "NamedRegion",
    "TrainingLog",
    "draw_ap_bars",
    "draw_ap_curve",
    "draw_attention",
    "draw_contact_sheet",
    "draw_guidance",
    "draw_loss_curve",
    "draw_numbered_regions",
    "draw_precision_recall",
    "draw_reliability",
    "find_metrics_csv",
    "read_training_log",
]
