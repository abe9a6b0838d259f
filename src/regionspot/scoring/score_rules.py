"""Score rules: the score of a (box, class) pair, before a protocol ranks the pairs of an image.

Papers differ in it, and AP with it: a table names its rule as it names its protocol.

- ``box_score``: class probability times the score of the box. A detector's confidence in a box is
  multiplied in *before* the pairs are ranked and cut. (The authors' released code multiplies after
  the cut, which drops pairs by a score that is not the one they are finally ranked by.)
- ``probability``: class probability alone.
- ``tap``: the rule by which Tokenize Anything (TAP, https://arxiv.org/abs/2312.09128) reports LVIS
  AP of annotated boxes, as in its public evaluation.

Shape letters: R regions, C classes.
"""

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from regionspot.core.errors import ConfigError, ShapeError
from regionspot.core.region_scores import RegionScores
from regionspot.core.shown import shown

ScoreRule = Literal["box_score", "probability", "tap"]

TAP_MIN_PROBABILITY = 0.001
"""TAP's rule drops pairs whose class probability is not above this."""

TAP_NMS_IOU = 0.5
"""TAP's rule drops a pair if a better one of the same class has an IoU above this."""

SCORE_RULE_NOTES: dict[ScoreRule, str] = {
    "box_score": (
        "Score rule box_score: class probability times the score of the box, which is 1 for"
        " annotated boxes."
    ),
    "probability": (
        "Score rule probability: class probability alone; scores of boxes are not used."
    ),
    "tap": (
        "Score rule tap (Tokenize Anything): the square root of class probability times SAM's"
        f" predicted IoU, clipped to 0..1; pairs with a probability of {TAP_MIN_PROBABILITY} or"
        f" less are dropped, then those suppressed by NMS within their class (IoU {TAP_NMS_IOU})."
        " Scores of boxes are not used."
    ),
}

DROPPED = -np.inf
"""The score of a pair that a rule drops."""


def check_score_rule(rule: str, *, protocol: str) -> None:
    """Check the name of a score rule, and that a protocol can follow it.

    Raises:
        ConfigError: There is no such rule, or it is tap with another protocol than its own.
    """
    if rule not in get_args(ScoreRule):
        raise ConfigError(
            f"there is no score rule {rule!r}. Set --score_rule to one of"
            f" {', '.join(get_args(ScoreRule))}."
        )
    if rule == "tap" and protocol != "flattened_top300":
        raise ConfigError(
            f"--score_rule tap scores the 300 best pairs of an image, and --protocol is {protocol}."
            " Set --protocol flattened_top300, or another --score_rule."
        )


def pair_scores(region_scores: RegionScores, rule: ScoreRule) -> NDArray[np.float64]:
    """Return the score of every (box, class) pair of an image, (R, C); `DROPPED` if it has none.

    Args:
        region_scores: The probabilities of one image's regions.
        rule: The score rule.

    Raises:
        ShapeError: The rule is tap, and a predicted IoU is not known or not finite.
    """
    probabilities = region_scores.scores.astype(np.float64)
    if rule == "tap":
        return _tap_scores(region_scores, probabilities)
    if rule == "box_score" and region_scores.box_scores is not None:
        probabilities *= region_scores.box_scores.astype(np.float64)[:, None]
    return probabilities


def _tap_scores(
    region_scores: RegionScores, probabilities: NDArray[np.float64]
) -> NDArray[np.float64]:
    found = region_scores.predicted_iou
    if found is None or not np.isfinite(found).all():
        raise ShapeError(
            f"image {region_scores.image_id}: the score rule tap needs SAM's predicted IoU of each"
            f" region, a finite number; found {shown(found)}."
        )
    quality = found.astype(np.float64).clip(0, 1)
    scores = np.sqrt(probabilities * quality[:, None])
    scores[region_scores.scores <= np.float32(TAP_MIN_PROBABILITY)] = DROPPED
    return nms_within_classes(region_scores.boxes_xyxy, scores, iou=TAP_NMS_IOU)


def nms_within_classes(
    boxes_xyxy: NDArray[np.float32], scores: NDArray[np.float64], *, iou: float
) -> NDArray[np.float64]:
    """Drop every pair that overlaps a better one of its class: greedy non-maximum suppression.

    Equal to `torchvision.ops.batched_nms`, which is not part of every installation.

    Args:
        boxes_xyxy: Boxes, (R, 4).
        scores: Score of each box in each class, (R, C); `DROPPED` for pairs that are no candidates.
        iou: The largest IoU of two boxes that are both kept.

    Returns:
        The scores, `DROPPED` where a pair is suppressed. Of equal scores the first box is kept.
    """
    overlaps = _box_iou(boxes_xyxy.astype(np.float64)) > iou
    np.fill_diagonal(overlaps, val=False)
    found = scores.copy()
    has_overlap = np.asarray(overlaps.any(axis=1))
    rows, columns = np.nonzero((scores > DROPPED) & has_overlap[:, None])
    best_first = np.argsort(-scores[rows, columns], kind="stable")
    for row, column in zip(rows[best_first].tolist(), columns[best_first].tolist(), strict=True):
        if found[row, column] > DROPPED:
            # Whatever overlaps it and was better would have dropped it.
            found[overlaps[row], column] = DROPPED
    return found


def _box_iou(boxes_xyxy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the IoU of every two boxes, (R, R); 0 for two without an area."""
    low = np.maximum(boxes_xyxy[:, None, :2], boxes_xyxy[None, :, :2])
    high = np.minimum(boxes_xyxy[:, None, 2:], boxes_xyxy[None, :, 2:])
    shared = (high - low).clip(0).prod(axis=2)
    areas = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).clip(0).prod(axis=1)
    union = areas[:, None] + areas[None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
