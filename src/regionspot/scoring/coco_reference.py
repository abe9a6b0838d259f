"""The reference that `coco_ap` is held to: pycocotools' `COCOeval`, which defines COCO AP.

Shape letters: N predictions, A annotations, C classes.
"""

import io
from contextlib import redirect_stdout

import numpy as np
from numpy.typing import NDArray

from regionspot.core.errors import MissingExtraError

Annotations = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]
"""Image numbers (A,), labels (A,) and boxes (x, y, width, height) (A, 4)."""

Predicted = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]
"""Image numbers (N,), labels (N,), boxes (x, y, width, height) (N, 4) and scores (N,)."""


def reference_coco_curves(
    *, num_images: int, num_classes: int, truth: Annotations, detections: Predicted
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
    if not len(detections[0]):
        return None
    with redirect_stdout(io.StringIO()):  # pycocotools prints what it does
        annotated = COCO()
        annotated.dataset = {
            "images": [{"id": number} for number in range(num_images)],
            "categories": [{"id": label} for label in range(num_classes)],
            "annotations": [
                {
                    "id": number,
                    "image_id": image,
                    "category_id": label,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
                # From 1: pycocotools takes a match with the annotation 0 for no match.
                for number, (image, label, box) in enumerate(_rows(truth), start=1)
            ],
        }
        annotated.createIndex()
        predicted = annotated.loadRes(
            [
                {"image_id": image, "category_id": label, "bbox": box, "score": score}
                for (image, label, box), score in zip(
                    _rows(detections[:3]), detections[3].tolist(), strict=True
                )
            ]
        )
        evaluation = COCOeval(annotated, predicted, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    # The last axis is "at most 1, 10 and 100 predictions of a class in an image".
    return evaluation.eval["precision"][..., -1], evaluation.eval["recall"][..., -1]


def _rows(columns: Annotations) -> list[tuple[int, int, list[float]]]:
    images, labels, boxes = (column.tolist() for column in columns)
    return list(zip(images, labels, boxes, strict=True))
