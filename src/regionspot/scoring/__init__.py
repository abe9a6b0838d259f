"""Scoring: predictions in, figures out (LVIS AP, COCO AP, figures over regions)."""

from regionspot.annotations import LvisCategory, LvisGroundTruth
from regionspot.scoring.ap_scores import (
    METRIC_NOTES,
    ApScores,
    CategoryScore,
    Metric,
    Scorer,
    check_scorer,
)
from regionspot.scoring.bootstrap import (
    Interval,
    Intervals,
    Spread,
    bootstrap_spread,
    check_num_draws,
    draw_figures,
)
from regionspot.scoring.class_groups import ClassGroup
from regionspot.scoring.coco_ap import CocoGroundTruth, CocoScorer
from regionspot.scoring.diagnosis import (
    Confusion,
    CrowdAccuracy,
    ReliabilityBin,
    WordAccuracy,
    accuracy_by_crowd,
    confusions,
    reliability,
    word_accuracies,
)
from regionspot.scoring.figures import (
    FIGURES,
    Figure,
    format_figure,
    region_figures,
    shown_figures,
)
from regionspot.scoring.ground_truth import check_same_data
from regionspot.scoring.lvis_ap import LvisScorer, LvisScores, score_lvis
from regionspot.scoring.named import NamedRegions
from regionspot.scoring.predictions import Predictions
from regionspot.scoring.protocols import (
    PROTOCOL_NOTES,
    Protocol,
    best_of_each_class,
    emit_predictions,
    flatten_top_k,
    top_1,
)
from regionspot.scoring.retrieval import retrieval_figures
from regionspot.scoring.scorers import scorer_of

__all__ = [
    "FIGURES",
    "METRIC_NOTES",
    "PROTOCOL_NOTES",
    "ApScores",
    "CategoryScore",
    "ClassGroup",
    "CocoGroundTruth",
    "CocoScorer",
    "Confusion",
    "CrowdAccuracy",
    "Figure",
    "Interval",
    "Intervals",
    "LvisCategory",
    "LvisGroundTruth",
    "LvisScorer",
    "LvisScores",
    "Metric",
    "NamedRegions",
    "Predictions",
    "Protocol",
    "ReliabilityBin",
    "Scorer",
    "Spread",
    "WordAccuracy",
    "accuracy_by_crowd",
    "best_of_each_class",
    "bootstrap_spread",
    "check_num_draws",
    "check_same_data",
    "check_scorer",
    "confusions",
    "draw_figures",
    "emit_predictions",
    "flatten_top_k",
    "format_figure",
    "region_figures",
    "reliability",
    "retrieval_figures",
    "score_lvis",
    "scorer_of",
    "shown_figures",
    "top_1",
    "word_accuracies",
]
