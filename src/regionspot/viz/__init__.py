"""Pictures: named regions, attention maps, training curves, bars."""

from regionspot.viz.attention import (
    attention_in_box,
    attention_limit,
    draw_attention,
    draw_attention_scale,
)
from regionspot.viz.contact_sheet import NamedPhoto, draw_contact_sheet
from regionspot.viz.curves import (
    TrainingLog,
    draw_ap_bars,
    draw_ap_curve,
    draw_loss_curve,
    draw_runs,
    find_metrics_csv,
    read_training_log,
)
from regionspot.viz.guidance import draw_guidance
from regionspot.viz.named_regions import NamedRegion, paint_numbered_regions
from regionspot.viz.quality import draw_precision_recall, draw_reliability
from regionspot.viz.region_photo import RegionPhoto, RegionShape, outline_regions

__all__ = [
    "NamedPhoto",
    "NamedRegion",
    "RegionPhoto",
    "RegionShape",
    "TrainingLog",
    "attention_in_box",
    "attention_limit",
    "draw_ap_bars",
    "draw_ap_curve",
    "draw_attention",
    "draw_attention_scale",
    "draw_contact_sheet",
    "draw_guidance",
    "draw_loss_curve",
    "draw_precision_recall",
    "draw_reliability",
    "draw_runs",
    "find_metrics_csv",
    "outline_regions",
    "paint_numbered_regions",
    "read_training_log",
]
