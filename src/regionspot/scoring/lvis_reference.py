"""The reference that `lvis_ap` is held to: `lvis.LVISEval` itself, about 80 times slower.

Used by tests, by ``--scorer reference``, and for the one category in which it differs.

lvis 0.5.3 uses ``np.float``, which numpy removed in 1.24, at two places of ``lvis/eval.py``. This
is the only place that mends it: while the reference runs, the name ``np`` inside that one module is
a proxy that also has ``float``; numpy itself is never touched.
"""

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regionspot.annotations import LvisGroundTruth
from regionspot.core.errors import MissingExtraError
from regionspot.scoring.predictions import Predictions
from regionspot.scoring.protocols import LVIS_MAX_DETECTIONS


class _NumpyWithFloat:
    """numpy, plus the alias ``np.float`` that lvis needs."""

    float = float

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def reference_lvis_figures(annotations: Path, predictions: Predictions) -> dict[str, float]:
    """Score with `lvis.LVISEval`; the figures are its own: fractions, -1 where undefined.

    Args:
        annotations: An LVIS annotation file.
        predictions: What to score, by masks if they have some. There must be at least one: lvis
            fails on an empty list.

    Returns:
        ``AP``, ``AP50``, ..., ``AR@300``, ... as lvis names them.

    Raises:
        MissingExtraError: lvis is not installed.
    """
    evaluation = run_reference(annotations, predictions)
    return {name: float(value) for name, value in evaluation.get_results().items()}


def run_reference(annotations: Path, predictions: Predictions) -> Any:
    """Return the `lvis.LVISEval` that ran; its ``eval`` holds all precisions and recalls."""
    lvis_eval = _import_lvis_eval()
    with TemporaryDirectory() as folder, _numpy_float_supplied(lvis_eval):
        # By file: lvis logs a deprecated warning for a list, and the file is what users exchange.
        results = Path(folder) / "predictions.json"
        predictions.write_lvis_json(results)
        iou_type = "bbox" if predictions.masks is None else "segm"
        evaluation = lvis_eval.LVISEval(str(annotations), str(results), iou_type)
        evaluation.run()
    return evaluation


def reference_curves(
    truth: LvisGroundTruth, predictions: Predictions, *, category_id: int | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return the reference's precision and recall.

    `lvis` marks a prediction as right by the id of the annotation that it finds, and as wrong by 0:
    finding the annotation with the id 0 counts as wrong.

    Args:
        truth: The ground truth.
        predictions: All predictions, of all categories; with masks, which then are compared.
        category_id: The only category to look at; None for all. C categories.

    Returns:
        Precision (10 IoU thresholds, 101 recall levels, C, 4 sizes) and recall (10, C, 4); None if
        there is no prediction of these categories, with which lvis fails.

    Raises:
        MissingExtraError: lvis is not installed.
    """
    wanted = [c.id for c in truth.categories if category_id in (None, c.id)]
    counted = _best_of_each_image(predictions)
    own = counted.select(np.isin(counted.category_ids, wanted))
    if not len(own):
        return None
    with TemporaryDirectory() as folder:
        path = Path(folder) / "annotations.json"
        path.write_text(json.dumps(_dataset_of(truth, wanted)), encoding="utf-8")
        curves = run_reference(path, own).eval
    return curves["precision"], curves["recall"]


def _best_of_each_image(predictions: Predictions) -> Predictions:
    """Keep each image's 300 highest scores, the first of equal ones, in the order given."""
    order = np.lexsort((-predictions.scores, predictions.image_ids))
    images = predictions.image_ids[order]
    ranks = np.arange(len(images)) - np.searchsorted(images, images)
    return predictions.select(np.sort(order[ranks < LVIS_MAX_DETECTIONS]))


def _dataset_of(truth: LvisGroundTruth, category_ids: Collection[int]) -> dict[str, object]:
    wanted = set(category_ids)
    regions = truth.regions.select(np.isin(truth.regions.category_ids, list(wanted)))
    masks = [None] * len(regions) if regions.masks is None else regions.masks.to_coco()

    def only_wanted(found: tuple[int, ...]) -> list[int]:
        return [number for number in found if number in wanted]

    return {
        "images": [
            {
                "id": number,
                # Sizes are looked up for masks, too, and used only for polygons.
                "height": 0,
                "width": 0,
                "neg_category_ids": only_wanted(labels.negative),
                "not_exhaustive_category_ids": only_wanted(labels.not_exhaustive),
            }
            for number, labels in truth.labels.items()
        ],
        "annotations": [
            {
                "id": 0 if regions.ids[row] == 0 else row + 1,
                "image_id": int(regions.image_ids[row]),
                "category_id": int(regions.category_ids[row]),
                "bbox": regions.boxes_xywh[row].tolist(),
                "area": float(regions.areas[row]),
                "ignore": int(regions.is_ignored[row]),
                "segmentation": mask and {**mask, "counts": mask["counts"].decode("ascii")},
            }
            for row, mask in enumerate(masks)
        ],
        "categories": [
            {"id": item.id, "frequency": item.frequency}
            for item in truth.categories
            if item.id in wanted
        ],
    }


@contextmanager
def _numpy_float_supplied(module: ModuleType) -> Iterator[None]:
    original = vars(module)["np"]
    vars(module)["np"] = _NumpyWithFloat()
    try:
        yield
    finally:
        vars(module)["np"] = original


def _import_lvis_eval() -> ModuleType:
    try:
        import lvis.eval
    except ImportError as error:
        raise MissingExtraError(
            'the LVIS reference needs lvis: type `pip install "regionspot[eval]"`.'
        ) from error
    return lvis.eval
