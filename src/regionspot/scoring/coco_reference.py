"""The reference that `coco_ap` is held to: pycocotools' `COCOeval`, which defines COCO AP.

Shape letters: N predictions, A annotations, C classes.
"""

import io
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regionspot.core.errors import MissingExtraError
from regionspot.core.rle_masks import RleMasks


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CocoAnnotations:
    """Ground truth with positions in place of ids."""

    images: NDArray[np.int64]
    """Position of the image of each annotation, (A,)."""
    labels: NDArray[np.int64]
    """Its class, counted from 0, (A,)."""
    boxes_xywh: NDArray[np.float64]
    """Its box, (A, 4)."""
    areas: NDArray[np.float64] | None = None
    """Its area, (A,); None for that of the box."""
    is_crowd: NDArray[np.bool_] | None = None
    """Whether it stands for many objects, (A,); None if none does."""
    masks: RleMasks | None = None
    """Its mask, A in all; None to compare boxes."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CocoDetections:
    """Predictions with positions in place of ids."""

    images: NDArray[np.int64]
    """Position of the image of each among those of the ground truth, (N,)."""
    labels: NDArray[np.int64]
    """Class of each, counted from 0, (N,)."""
    boxes_xywh: NDArray[np.float64]
    """Boxes, (N, 4)."""
    scores: NDArray[np.float64]
    """Confidences, (N,)."""
    masks: RleMasks | None = None
    """Masks, N in all; None to compare boxes."""


def reference_coco_curves(
    *, num_images: int, num_classes: int, truth: CocoAnnotations, detections: CocoDetections
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return the reference's precision and recall with 100 predictions of a class in an image.

    Args:
        num_images: Number of images; image numbers are below it.
        num_classes: Number of classes, C; labels are below it.
        truth: What is annotated.
        detections: What is predicted.

    Returns:
        Precision (10 IoU thresholds, 101 recall levels, C, 4 sizes) and recall (10, C, 4), -1 where
        a class has no ground truth; None without predictions, with which pycocotools fails.

    Raises:
        MissingExtraError: pycocotools is not installed.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise MissingExtraError(
            '--scorer reference needs pycocotools: type `pip install "regionspot[eval]"`.'
        ) from error
    if not len(detections.images):
        return None
    with redirect_stdout(io.StringIO()):  # pycocotools prints what it does
        annotated = COCO()
        annotated.dataset = {
            # Sizes are looked up for masks, too, and used only for polygons.
            "images": [{"id": number, "height": 0, "width": 0} for number in range(num_images)],
            "categories": [{"id": label} for label in range(num_classes)],
            # From 1: pycocotools takes a match with the annotation 0 for no match.
            "annotations": [
                {"id": number, **entry} for number, entry in enumerate(_annotated(truth), start=1)
            ],
        }
        annotated.createIndex()
        predicted = annotated.loadRes(_predicted(detections))
        iou_type = "bbox" if truth.masks is None else "segm"
        evaluation = COCOeval(annotated, predicted, iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
    # The last axis is "at most 1, 10 and 100 predictions of a class in an image".
    return evaluation.eval["precision"][..., -1], evaluation.eval["recall"][..., -1]


def _annotated(truth: CocoAnnotations) -> Iterator[dict[str, Any]]:
    areas = truth.boxes_xywh[:, 2] * truth.boxes_xywh[:, 3] if truth.areas is None else truth.areas
    is_crowd = np.zeros(len(areas), np.bool_) if truth.is_crowd is None else truth.is_crowd
    masks = None if truth.masks is None else truth.masks.to_coco()
    for row, box in enumerate(truth.boxes_xywh.tolist()):
        entry = {
            "image_id": int(truth.images[row]),
            "category_id": int(truth.labels[row]),
            "bbox": box,
            "area": float(areas[row]),
            "iscrowd": int(is_crowd[row]),
        }
        yield entry if masks is None else {**entry, "segmentation": masks[row]}


def _predicted(found: CocoDetections) -> list[dict[str, Any]]:
    # With masks there is no bbox: pycocotools would take the size of a prediction from it.
    regions = (
        [{"bbox": box} for box in found.boxes_xywh.tolist()]
        if found.masks is None
        else [{"segmentation": mask} for mask in found.masks.to_coco()]
    )
    columns = (found.images.tolist(), found.labels.tolist(), found.scores.tolist(), regions)
    return [
        {"image_id": image, "category_id": label, "score": score, **region}
        for image, label, score, region in zip(*columns, strict=True)
    ]
