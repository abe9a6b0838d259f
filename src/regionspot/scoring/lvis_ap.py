"""LVIS average precision, by hotcoco, held bit-equal to `lvis.LVISEval` (tests/parity).

LVIS labels are federated: in an image a category was either annotated, or looked for and not found
(negative), or never looked for, and then its predictions count neither way. hotcoco computes the
precision of every IoU threshold, recall level, category and object size in Rust, about 80 times
as fast as the reference; the means over them are taken here, exactly as the reference takes them.

Shape letters: C categories.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regionspot.annotations import FREQUENCIES, Frequency, LvisGroundTruth
from regionspot.core.errors import AnnotationError, ConfigError, RegionSpotError
from regionspot.scoring.ap_scores import (
    SIZES,
    ApScores,
    CategoryScore,
    IouType,
    Scorer,
    check_iou_type,
    check_scorer,
    curves,
    import_hotcoco,
    load_detections,
    match,
    mean_curve,
    mean_percent,
)
from regionspot.scoring.lvis_reference import reference_curves
from regionspot.scoring.mask_checks import predicted_masks, truth_masks
from regionspot.scoring.predictions import Predictions
from regionspot.scoring.protocols import LVIS_MAX_DETECTIONS

_IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
_SELF_CHECK_TOLERANCE = 1e-9
_ANY_AREA = (float(np.nextafter(0, 1)), float(np.finfo(np.float64).max))
_IGNORED_AREA = 1e12  # beyond all size ranges, "all" included: such a region counts in none


@dataclass(frozen=True, slots=True, kw_only=True)
class LvisScores(ApScores):
    """LVIS figures in percent; None where no category has the ground truth that a figure needs."""

    APr: float | None
    """Rare categories: in fewer than 10 training images of LVIS."""
    APc: float | None
    """Common categories: in 10 to 99."""
    APf: float | None
    """Frequent categories: in 100 or more."""
    num_categories: dict[Frequency, int]
    """Categories with ground truth, by frequency: the weights of APr, APc and APf in AP."""


def score_lvis(
    annotations: Path | LvisGroundTruth,
    predictions: Predictions,
    *,
    iou_type: IouType = "bbox",
    scorer: Scorer = "hotcoco",
) -> LvisScores:
    """Score predictions against LVIS ground truth.

    Only an image's 300 highest-scoring predictions count, over all categories together. An image
    without predictions counts as missed. Predictions of categories that were not looked for in an
    image are ignored, as are false ones of categories annotated there not exhaustively.

    Args:
        annotations: An LVIS annotation file, or one already read.
        predictions: What to score; ids are the file's own.
        iou_type: Whether boxes or masks are compared.
        scorer: hotcoco, or the reference (`lvis.LVISEval`), about 80 times slower.

    Returns:
        The figures, in percent.

    Raises:
        MissingFileError: There is no annotation file.
        AnnotationError: It is not in LVIS format, predictions name images that it lacks, or either
            lacks masks for mask AP.
        ConfigError: There is no such scorer.
        MissingExtraError: hotcoco or lvis is not installed.
    """
    truth = (
        annotations
        if isinstance(annotations, LvisGroundTruth)
        else LvisGroundTruth.read(annotations, with_masks=iou_type == "segm")
    )
    return LvisScorer(truth, iou_type=iou_type, scorer=scorer).score(predictions)


class LvisScorer:
    """Scores many sets of predictions against one ground truth, which is indexed once."""

    def __init__(
        self,
        truth: LvisGroundTruth,
        *,
        iou_type: IouType = "bbox",
        scorer: Scorer = "hotcoco",
        max_detections: int | None = LVIS_MAX_DETECTIONS,
    ) -> None:
        """Index the ground truth.

        Args:
            truth: The ground truth, with masks for mask AP.
            iou_type: Whether boxes or masks are compared.
            scorer: hotcoco, or the reference.
            max_detections: Predictions that count of an image; None for all, as in AP-fixed.

        Raises:
            ConfigError: There is no such scorer or IoU type, the reference is to score without a
                limit, or the ground truth has no masks for mask AP.
            MissingExtraError: hotcoco is not installed.
        """
        check_scorer(scorer)
        check_iou_type(iou_type)
        if scorer == "reference" and max_detections != LVIS_MAX_DETECTIONS:
            raise ConfigError(
                f"--scorer reference scores {LVIS_MAX_DETECTIONS} predictions an image. Set"
                " --scorer hotcoco for --protocol ap_fixed."
            )
        self._max_detections = max_detections
        self._scorer = scorer
        self._truth = truth
        self._iou_type: IouType = iou_type
        self._masks = truth_masks(truth) if iou_type == "segm" else None
        self._hotcoco = import_hotcoco()
        self._image_ids = np.array(sorted(truth.image_ids), np.int64)
        self._category_ids = np.array([item.id for item in truth.categories], np.int64)
        self._indexed = self._index()

    def score(self, predictions: Predictions) -> LvisScores:
        """Score predictions; see `score_lvis`.

        Raises:
            AnnotationError: Predictions name images or categories that the annotations lack, or
                have no masks for mask AP.
        """
        self._check_ids(predictions)
        theirs = None
        if self._scorer == "reference":
            theirs = reference_curves(self._truth, self._compared(predictions))
        return self._summarize(*(theirs or self._curves(predictions)))

    def match(self, predictions: Predictions, *, by_size: bool = True) -> Any:
        """Return hotcoco's evaluator after it has matched predictions with the ground truth.

        Args:
            predictions: What to match.
            by_size: Whether to match within small, medium and large regions, too.
        """
        found = self._compared(predictions)
        table = np.column_stack(
            [
                np.searchsorted(self._image_ids, found.image_ids),
                found.boxes_xywh,
                found.scores,
                np.searchsorted(self._category_ids, found.category_ids),
            ]
        ).astype(np.float64)
        detections = load_detections(self._indexed, table, found.masks)
        detections = detections.cap_detections_per_image(self._max_detections)
        if not has_area(found).all():
            # As lvis does: they count among the 300 of their image, and then no more.
            detections = detections.filter(area_rng=_ANY_AREA, drop_empty_images=False)
        evaluation = self._hotcoco.COCOeval(
            self._indexed, detections, self._iou_type, lvis_style=True
        )
        # Of AP-fixed all predictions count.
        limit = max(1, len(predictions)) if self._max_detections is None else None
        return match(evaluation, by_size=by_size, max_detections=limit)

    def _compared(self, predictions: Predictions) -> Predictions:
        """Return predictions with checked masks for mask AP, and without masks for boxes."""
        masks = None
        if self._masks is not None:
            masks = predicted_masks(predictions, self._truth.sizes_hw, name="predictions")
        return replace(predictions, masks=masks)

    def _curves(self, predictions: Predictions) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return precision (IoU, recall, C, size) and recall (IoU, C, size)."""
        precision, recall = curves(self.match(predictions))
        regions = self._truth.regions
        for number in regions.category_ids[regions.ids == 0].tolist():
            theirs = reference_curves(self._truth, self._compared(predictions), category_id=number)
            if theirs is not None:
                rank = np.searchsorted(self._category_ids, number)
                precision[:, :, rank], recall[:, rank] = (curve[..., 0, :] for curve in theirs)
        return precision, recall

    def _index(self) -> Any:
        """Hand the ground truth to hotcoco, with the ranks of ids in place of ids.

        Ranks survive the float64 in which predictions are handed over, and keep the order in which
        `lvis` takes images and categories.
        """
        rank_of = {number: rank for rank, number in enumerate(self._category_ids.tolist())}

        def ranks(category_ids: tuple[int, ...]) -> list[int]:
            return [rank_of[number] for number in category_ids if number in rank_of]

        images = [
            {
                "id": rank,
                "neg_category_ids": ranks(self._truth.labels[number].negative),
                "not_exhaustive_category_ids": ranks(self._truth.labels[number].not_exhaustive),
            }
            for rank, number in enumerate(self._image_ids.tolist())
        ]
        categories = [
            {"id": rank, "name": item.name, "frequency": item.frequency}
            for rank, item in enumerate(self._truth.categories)
        ]
        regions = self._truth.regions
        return self._hotcoco.COCO.from_arrays(
            images,
            categories,
            np.searchsorted(self._image_ids, regions.image_ids),
            np.searchsorted(self._category_ids, regions.category_ids),
            regions.boxes_xywh,
            area=np.where(regions.is_ignored, _IGNORED_AREA, regions.areas),
            segmentation=None if self._masks is None else self._masks.to_coco(),
        )

    def _check_ids(self, predictions: Predictions) -> None:
        for what, found, known in (
            ("images", predictions.image_ids, self._image_ids),
            ("categories", predictions.category_ids, self._category_ids),
        ):
            strange = np.setdiff1d(found, known)
            if len(strange):
                raise AnnotationError(
                    f"predictions name {len(strange)} {what} that {self._truth.name} does not"
                    f" list, e.g. id {strange[0]}. They were made for other annotations: evaluate"
                    " with the file that the boxes came from."
                )

    def _summarize(self, precision: NDArray[np.float64], recall: NDArray[np.float64]) -> LvisScores:
        """Average precision (IoU, recall, C, area) and recall (IoU, C, area) as lvis does."""
        of_group = {
            group: [i for i, item in enumerate(self._truth.categories) if item.frequency == group]
            for group in FREQUENCIES
        }
        everywhere = precision[:, :, :, 0]
        sizes = {f"AP{size[0]}": mean_percent(precision[..., i]) for i, size in enumerate(SIZES)}
        recalls = {f"AR{size[0]}": mean_percent(recall[..., i]) for i, size in enumerate(SIZES)}
        groups = {
            f"AP{group}": mean_percent(everywhere[:, :, rows]) for group, rows in of_group.items()
        }
        scores = LvisScores(
            AP=sizes.pop("APa"),
            AP50=mean_percent(everywhere[_IOU_THRESHOLDS == 0.5]),
            AP75=mean_percent(everywhere[_IOU_THRESHOLDS == 0.75]),
            **sizes,
            **groups,
            AR=recalls.pop("ARa"),
            **recalls,
            num_categories={
                group: int((everywhere[0, 0, rows] > -1).sum()) for group, rows in of_group.items()
            },
            per_category=self._per_category(everywhere),
            precision50=mean_curve(everywhere[0]),
        )
        check_group_mean(scores)
        return scores

    def _per_category(self, everywhere: NDArray[np.float64]) -> tuple[CategoryScore, ...]:
        found, counts = np.unique(self._truth.regions.category_ids, return_counts=True)
        count_of = dict(zip(found.tolist(), counts.tolist(), strict=True))
        return tuple(
            CategoryScore(
                category_id=category.id,
                name=category.name,
                frequency=category.frequency,
                num_annotations=count_of.get(category.id, 0),
                AP=mean_percent(everywhere[:, :, index]),
            )
            for index, category in enumerate(self._truth.categories)
        )


def check_group_mean(scores: LvisScores) -> None:
    """Check that AP is the mean of APr, APc and APf, weighted by categories with ground truth.

    Tables whose figures fail this have their groups mixed up; the paper's own baselines do.

    Raises:
        RegionSpotError: They differ, which means that the evaluator is broken.
    """
    of_group = {"r": scores.APr, "c": scores.APc, "f": scores.APf}
    counts = scores.num_categories
    total = sum(counts.values())
    if scores.AP is None or total == 0:
        return
    weighted = sum(counts[group] * (of_group[group] or 0.0) for group in FREQUENCIES) / total
    if abs(weighted - scores.AP) > _SELF_CHECK_TOLERANCE * max(1.0, scores.AP):
        raise RegionSpotError(
            f"self-check failed: AP is {scores.AP}, but its groups average to {weighted} (rare,"
            f" common, frequent {of_group}, weights {counts}). Report this with the version of"
            " hotcoco; do not use the figures."
        )


def has_area(predictions: Predictions) -> NDArray[np.bool_]:
    """Say which predictions (N,) are evaluated: those with an area above 0, and finite."""
    if predictions.masks is not None:
        return np.asarray(predictions.masks.areas() > 0)
    with np.errstate(over="ignore"):
        areas = predictions.boxes_xywh[:, 2] * predictions.boxes_xywh[:, 3]
    return (areas > 0) & (areas < np.inf)
