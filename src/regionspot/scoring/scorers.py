"""The scorer that belongs to a ground truth."""

from regionspot.annotations import LvisGroundTruth
from regionspot.scoring.ap_scores import Scorer
from regionspot.scoring.coco_ap import CocoGroundTruth, CocoScorer
from regionspot.scoring.lvis_ap import LvisScorer


def scorer_of(
    truth: LvisGroundTruth | CocoGroundTruth, *, scorer: Scorer = "hotcoco"
) -> LvisScorer | CocoScorer:
    """Index a ground truth for scoring.

    Args:
        truth: The ground truth; its kind decides the metric.
        scorer: Who computes precision and recall.

    Raises:
        ConfigError: There is no such scorer.
        MissingExtraError: hotcoco is not installed.
    """
    if isinstance(truth, LvisGroundTruth):
        return LvisScorer(truth, scorer=scorer)
    return CocoScorer(truth, scorer=scorer)
