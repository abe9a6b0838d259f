"""COCO average precision, by boxes or by masks, by hotcoco.

For data without federated labels: every class counts in every image. Precision and recall are equal
to those of ``pycocotools`` in every bit (tests/parity/test_coco_ap.py).

Shape letter: C categories.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from regionspot.core.errors import AnnotationError
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
from regionspot.scoring.coco_reference import (
    CocoAnnotations,
    CocoDetections,
    reference_coco_curves,
)
from regionspot.scoring.coco_truth import CocoGroundTruth
from regionspot.scoring.mask_checks import predicted_masks, truth_masks
from regionspot.scoring.predictions import Predictions

COCO_MAX_DETECTIONS = 100
"""COCO scores this many predictions of a class in an image."""

_AP50, _AP75 = 0, 5  # positions among the IoU thresholds 0.50, 0.55, ..., 0.95


class CocoScorer:
    """Scores many sets of predictions against one ground truth, which is indexed once."""

    def __init__(
        self, truth: CocoGroundTruth, *, iou_type: IouType = "bbox", scorer: Scorer = "hotcoco"
    ) -> None:
        """Index the ground truth.

        Args:
            truth: The ground truth, with masks for mask AP.
            iou_type: Whether boxes or masks are compared.
            scorer: hotcoco, or the reference (pycocotools).

        Raises:
            ConfigError: There is no such scorer or IoU type, or the ground truth has no masks.
            MissingExtraError: hotcoco is not installed.
        """
        check_scorer(scorer)
        check_iou_type(iou_type)
        self._truth = truth
        self._iou_type: IouType = iou_type
        self._masks = truth_masks(truth) if iou_type == "segm" else None
        self._scorer = scorer
        self._image_ids = np.array(truth.image_ids, np.int64)
        self._region_images = np.searchsorted(self._image_ids, truth.region_images)
        self._hotcoco = import_hotcoco()
        self._indexed = self._index()

    def score(self, predictions: Predictions) -> ApScores:
        """Score predictions.

        Raises:
            AnnotationError: Predictions name images or categories that the ground truth lacks, or
                have no masks for mask AP.
        """
        found = self._ranked(predictions)
        theirs = None
        if self._scorer == "reference":
            theirs = reference_coco_curves(
                num_images=len(self._image_ids),
                num_classes=len(self._truth.category_ids),
                truth=CocoAnnotations(
                    images=self._region_images,
                    labels=self._truth.region_labels,
                    boxes_xywh=self._truth.boxes_xywh,
                    areas=self._truth.areas,
                    is_crowd=self._truth.is_crowd,
                    masks=self._masks,
                ),
                detections=found,
            )
        return self._summarize(*(theirs or curves(self._matched(found))))

    def match(self, predictions: Predictions, *, by_size: bool = True) -> Any:
        """Return hotcoco's evaluator after it has matched predictions with the ground truth.

        Args:
            predictions: What to match.
            by_size: Whether to match within small, medium and large regions, too.
        """
        return self._matched(self._ranked(predictions), by_size=by_size)

    def _matched(self, found: CocoDetections, *, by_size: bool = True) -> Any:
        table = np.column_stack(
            [found.images, found.boxes_xywh, found.scores, found.labels]
        ).astype(np.float64)
        detections = load_detections(self._indexed, table, found.masks)
        evaluation = self._hotcoco.COCOeval(self._indexed, detections, self._iou_type)
        return match(evaluation, by_size=by_size)

    def _index(self) -> Any:
        return self._hotcoco.COCO.from_arrays(
            [{"id": rank} for rank in range(len(self._image_ids))],
            [{"id": rank, "name": name} for rank, name in enumerate(self._truth.class_names)],
            self._region_images,
            self._truth.region_labels,
            self._truth.boxes_xywh,
            area=self._truth.areas,
            iscrowd=self._truth.is_crowd,
            segmentation=None if self._masks is None else self._masks.to_coco(),
        )

    def _ranked(self, predictions: Predictions) -> CocoDetections:
        category_ids = np.array(self._truth.category_ids, np.int64)
        order = np.argsort(category_ids, kind="stable")
        for what, found, known in (
            ("images", predictions.image_ids, self._image_ids),
            ("categories", predictions.category_ids, category_ids),
        ):
            strange = np.setdiff1d(found, known)
            if len(strange):
                raise AnnotationError(
                    f"predictions name {len(strange)} {what} that {self._truth.name} does not"
                    f" hold, e.g. id {strange[0]}. They were made for other data."
                )
        return CocoDetections(
            images=np.searchsorted(self._image_ids, predictions.image_ids),
            labels=order[np.searchsorted(category_ids[order], predictions.category_ids)],
            boxes_xywh=predictions.boxes_xywh,
            scores=predictions.scores,
            masks=None
            if self._masks is None
            else predicted_masks(predictions, self._truth.sizes_hw, name="predictions"),
        )

    def _summarize(self, precision: NDArray[np.float64], recall: NDArray[np.float64]) -> ApScores:
        """Average precision (IoU, recall, C, size) and recall (IoU, C, size)."""
        everywhere = precision[..., 0]
        sizes = {f"AP{size[0]}": mean_percent(precision[..., i]) for i, size in enumerate(SIZES)}
        recalls = {f"AR{size[0]}": mean_percent(recall[..., i]) for i, size in enumerate(SIZES)}
        counts = np.bincount(self._truth.region_labels, minlength=len(self._truth.category_ids))
        return ApScores(
            AP=sizes.pop("APa"),
            AP50=mean_percent(everywhere[_AP50]),
            AP75=mean_percent(everywhere[_AP75]),
            **sizes,
            AR=recalls.pop("ARa"),
            **recalls,
            precision50=mean_curve(everywhere[_AP50]),
            per_category=tuple(
                CategoryScore(
                    category_id=number,
                    name=name,
                    frequency=None,
                    num_annotations=int(counts[label]),
                    AP=mean_percent(everywhere[..., label]),
                )
                for label, (number, name) in enumerate(
                    zip(self._truth.category_ids, self._truth.class_names, strict=True)
                )
            ),
        )
