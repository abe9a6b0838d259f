"""Scoring: predictions in and out, protocols, LVIS AP, validation while training, the report."""

from regionspot.annotations import LvisCategory, LvisGroundTruth
from regionspot.scoring.figures import FIGURES, Figure, RegionMeans, format_figure, shown_figures
from regionspot.scoring.ground_truth import check_same_data
from regionspot.scoring.lvis_ap import CategoryScore, LvisScorer, LvisScores, score_lvis
from regionspot.scoring.predictions import Predictions
from regionspot.scoring.protocols import (
    PROTOCOL_NOTES,
    Protocol,
    emit_predictions,
    flatten_top_k,
    top_1,
)

__all__ = [
    "FIGURES",
    "PROTOCOL_NOTES",
    "CategoryScore",
    "Figure",
    "LvisCategory",
    "LvisGroundTruth",
    "LvisScorer",
    "LvisScores",
    "Predictions",
    "Protocol",
    "RegionMeans",
    "check_same_data",
    "emit_predictions",
    "flatten_top_k",
    "format_figure",
    "score_lvis",
    "shown_figures",
    "top_1",
]
