"""The scorer that belongs to a ground truth."""

from regionspot.annotations import LvisGroundTruth
from regionspot.core.errors import ConfigError
from regionspot.scoring.ap_scores import IouType, Scorer
from regionspot.scoring.coco_ap import CocoScorer
from regionspot.scoring.coco_truth import CocoGroundTruth
from regionspot.scoring.lvis_ap import LvisScorer
from regionspot.scoring.protocols import LVIS_MAX_DETECTIONS, Protocol


def scorer_of(
    truth: LvisGroundTruth | CocoGroundTruth,
    *,
    iou_type: IouType = "bbox",
    scorer: Scorer = "hotcoco",
    protocol: Protocol = "flattened_top300",
) -> LvisScorer | CocoScorer:
    """Index a ground truth for scoring.

    Args:
        truth: The ground truth; its kind decides the metric.
        iou_type: Whether boxes or masks are compared.
        scorer: Who computes precision and recall.
        protocol: How predictions were chosen; decides how many of an image count.

    Raises:
        ConfigError: There is no such scorer, the protocol has no meaning for the metric, or the
            ground truth has no masks to compare.
        MissingExtraError: hotcoco is not installed.
    """
    if isinstance(truth, LvisGroundTruth):
        limit = None if protocol == "ap_fixed" else LVIS_MAX_DETECTIONS
        return LvisScorer(truth, iou_type=iou_type, scorer=scorer, max_detections=limit)
    if protocol == "ap_fixed":
        raise ConfigError(
            "--protocol ap_fixed is defined for LVIS only. Set --metric lvis, or another protocol."
        )
    return CocoScorer(truth, iou_type=iou_type, scorer=scorer)
