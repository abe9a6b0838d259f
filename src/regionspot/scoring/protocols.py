"""Protocols: which (box, class) pairs of an image are emitted as predictions.

The AP that annotated boxes give depends heavily on this choice: one class a box gives a CLIP crop
baseline about half the AP that the flattened top 300 gives, with the very same scores. So both are
offered, the flattened one is the default as in the paper, and every table names the one it used.

What a pair is ranked by is the score rule (`score_rules`).

Shape letters: R regions, C classes, N predictions.
"""

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from regionspot.core.errors import ConfigError, ShapeError
from regionspot.core.geometry import xyxy_to_xywh
from regionspot.core.region_scores import RegionScores, top_k
from regionspot.scoring.predictions import Predictions
from regionspot.scoring.score_rules import DROPPED, ScoreRule, check_score_rule, pair_scores

Protocol = Literal["flattened_top300", "top1", "ap_fixed"]

LVIS_MAX_DETECTIONS = 300
"""LVIS scores this many predictions an image, over all categories together."""

FIXED_MAX_DETECTIONS = 10_000
"""AP-fixed scores this many predictions of a category, over all images together."""

PROTOCOL_NOTES: dict[Protocol, str] = {
    "flattened_top300": (
        "Flattened top 300: every (box, class) pair of an image is a candidate; the 300 pairs with"
        " the highest scores are scored. A box may be predicted as several classes."
    ),
    "top1": (
        "Top 1: every box is predicted as its one most likely class. The figures are far lower than"
        " the flattened ones and must not be compared with them."
    ),
    "ap_fixed": (
        "AP-fixed (Dave et al. 2021): the 10,000 pairs of every class with the highest scores over"
        " all images are scored, any number of them in an image, so that classes do not compete for"
        " 300 places. Not comparable with the flattened figures."
    ),
}

# Annotated boxes have two decimals and travel as float32. Rounding to 1/1000 px undoes that
# journey, and keeps the results file short.
_BOX_DECIMALS = 3


def flatten_top_k(
    region_scores: RegionScores,
    category_ids: Sequence[int],
    *,
    k: int = LVIS_MAX_DETECTIONS,
    score_rule: ScoreRule = "box_score",
) -> Predictions:
    """Emit the ``k`` best (box, class) pairs of an image.

    Args:
        region_scores: One image's class scores.
        category_ids: The data set's own id of each class of the vocabulary, C in all.
        k: The most pairs to emit.
        score_rule: How a pair is scored.

    Returns:
        At most ``k`` predictions, best first; equal scores in the order of boxes, then classes.
        No regions give no predictions.

    Raises:
        ShapeError: ``category_ids`` does not name every column of the scores.
        ConfigError: ``k`` is not positive.
    """
    if k < 1:
        raise ConfigError(f"k is {k}; wanted at least one prediction an image.")
    weighted = _weighted_scores(region_scores, category_ids, score_rule)
    pairs = top_k(weighted.ravel(), k)
    pairs = pairs[weighted.ravel()[pairs] > DROPPED]
    rows, columns = np.divmod(pairs, max(1, weighted.shape[1]))
    return _emit(region_scores, category_ids, weighted, rows, columns)


def top_1(
    region_scores: RegionScores,
    category_ids: Sequence[int],
    *,
    score_rule: ScoreRule = "box_score",
) -> Predictions:
    """Emit the most likely class of every box, one prediction a region, in the order of regions.

    Args:
        region_scores: One image's class scores.
        category_ids: The data set's own id of each class of the vocabulary, C in all.
        score_rule: How a pair is scored.

    Raises:
        ShapeError: ``category_ids`` does not name every column of the scores.
    """
    weighted = _weighted_scores(region_scores, category_ids, score_rule)
    rows = np.arange(len(weighted))
    # The raw scores choose the class: a box score of zero would make all classes equal.
    columns = region_scores.scores.argmax(axis=1) if len(rows) else rows
    return _emit(region_scores, category_ids, weighted, rows, columns)


def all_pairs(
    region_scores: RegionScores,
    category_ids: Sequence[int],
    *,
    score_rule: ScoreRule = "box_score",
) -> Predictions:
    """Emit every (box, class) pair of an image, best first.

    Args:
        region_scores: One image's class scores.
        category_ids: The data set's own id of each class of the vocabulary, C in all.
        score_rule: How a pair is scored.

    Raises:
        ShapeError: ``category_ids`` does not name every column of the scores.
    """
    k = max(1, region_scores.scores.size)
    return flatten_top_k(region_scores, category_ids, k=k, score_rule=score_rule)


def best_of_each_class(predictions: Predictions, *, k: int = FIXED_MAX_DETECTIONS) -> Predictions:
    """Keep the ``k`` highest scores of every category over all images, the first of equal ones."""
    order = np.lexsort((-predictions.scores, predictions.category_ids))
    categories = predictions.category_ids[order]
    ranks = np.arange(len(order)) - np.searchsorted(categories, categories)
    return predictions.select(np.sort(order[ranks < k]))


def emit_predictions(
    scored: Iterable[RegionScores],
    category_ids: Sequence[int],
    *,
    protocol: Protocol,
    score_rule: ScoreRule = "box_score",
) -> Predictions:
    """Apply a score rule and a protocol to every image and join the results.

    Raises:
        ConfigError: There is no such protocol or score rule, or they do not go together.
        ShapeError: ``category_ids`` does not name every column of the scores, or the predicted IoUs
            that the rule needs are not known.
    """
    if protocol not in PROTOCOL_NOTES:
        raise ConfigError(
            f"there is no protocol {protocol!r}; choose one of {sorted(PROTOCOL_NOTES)}."
        )
    check_score_rule(score_rule, protocol=protocol)
    emit = {"flattened_top300": flatten_top_k, "top1": top_1, "ap_fixed": all_pairs}[protocol]
    return Predictions.concatenate(
        emit(image, category_ids, score_rule=score_rule) for image in scored
    )


def _weighted_scores(
    region_scores: RegionScores, category_ids: Sequence[int], score_rule: ScoreRule
) -> NDArray[np.float64]:
    if region_scores.scores.shape[1] != len(category_ids):
        raise ShapeError(
            f"image {region_scores.image_id}: scores for {region_scores.scores.shape[1]} classes,"
            f" but {len(category_ids)} category ids. Score with the text bank of the vocabulary"
            " that the category ids belong to."
        )
    return pair_scores(region_scores, score_rule)


def _emit(
    region_scores: RegionScores,
    category_ids: Sequence[int],
    weighted: NDArray[np.float64],
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
) -> Predictions:
    boxes_xywh = xyxy_to_xywh(region_scores.boxes_xyxy).astype(np.float64)[rows]
    return Predictions(
        image_ids=np.full(len(rows), region_scores.image_id, np.int64),
        category_ids=np.asarray(category_ids, np.int64)[columns],
        boxes_xywh=boxes_xywh.round(_BOX_DECIMALS),
        scores=weighted[rows, columns],
        masks=None if region_scores.masks is None else region_scores.masks[rows],
    )
