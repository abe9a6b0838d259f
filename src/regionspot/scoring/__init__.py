"""Scoring: predictions in, figures out (LVIS AP, COCO AP, figures over regions)."""

from regionspot.annotations import LvisCategory, LvisGroundTruth
from regionspot.scoring.ap_scores import (
    IOU_TYPE_NOTES,
    METRIC_NOTES,
    ApScores,
    CategoryScore,
    IouType,
    Metric,
    Scorer,
    check_iou_type,
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
from regionspot.scoring.coco_ap import CocoScorer
from regionspot.scoring.coco_truth import CocoGroundTruth
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
from regionspot.scoring.ground_truth import check_same_data, class_differences
from regionspot.scoring.lvis_ap import LvisScorer, LvisScores, score_lvis
from regionspot.scoring.mask_checks import predicted_masks
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
from regionspot.scoring.results_file import ResultsFile, read_results_file
from regionspot.scoring.retrieval import retrieval_figures
from regionspot.scoring.score_rules import SCORE_RULE_NOTES, ScoreRule, check_score_rule
from regionspot.scoring.scorers import scorer_of

__all__ = [
    "FIGURES",
    "IOU_TYPE_NOTES",
    "METRIC_NOTES",
    "PROTOCOL_NOTES",
    "SCORE_RULE_NOTES",
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
    "IouType",
    "LvisCategory",
    "LvisGroundTruth",
    "LvisScorer",
    "LvisScores",
    "Metric",
    "NamedRegions",
    "Predictions",
    "Protocol",
    "ReliabilityBin",
    "ResultsFile",
    "ScoreRule",
    "Scorer",
    "Spread",
    "WordAccuracy",
    "accuracy_by_crowd",
    "best_of_each_class",
    "bootstrap_spread",
    "check_iou_type",
    "check_num_draws",
    "check_same_data",
    "check_score_rule",
    "check_scorer",
    "class_differences",
    "confusions",
    "draw_figures",
    "emit_predictions",
    "flatten_top_k",
    "format_figure",
    "predicted_masks",
    "read_results_file",
    "region_figures",
    "reliability",
    "retrieval_figures",
    "score_lvis",
    "scorer_of",
    "shown_figures",
    "top_1",
    "word_accuracies",
]
