"""The reference that `lvis_ap` is held to: `lvis.LVISEval` itself, about 80 times slower.

It is asked in tests, and for the one category in which it is known to go its own way.

lvis 0.5.3 uses ``np.float``, which numpy removed in 1.24, at two places of ``lvis/eval.py``. This
is the only place that mends it: while the reference runs, the name ``np`` inside that one module is
a proxy that also has ``float``; numpy itself is never touched.
"""

import json
from collections.abc import Iterator
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
    """Score boxes with `lvis.LVISEval`; the figures are its own: fractions, -1 where undefined.

    Args:
        annotations: An LVIS annotation file.
        predictions: What to score. There must be at least one: lvis fails on an empty list.

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
        evaluation = lvis_eval.LVISEval(str(annotations), str(results), "bbox")
        evaluation.run()
    return evaluation


def reference_curves(
    truth: LvisGroundTruth, predictions: Predictions, category_id: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return the reference's precision and recall of one category.

    `lvis` marks a prediction as right by the id of the annotation that it finds, and as wrong by 0:
    finding the annotation with the id 0 counts as wrong.

    Args:
        truth: The ground truth.
        predictions: All predictions, of all categories.
        category_id: The category.

    Returns:
        Precision (10 IoU thresholds, 101 recall levels, 4 sizes) and recall (10, 4); None if there
        is no prediction of the category, with which lvis fails.

    Raises:
        MissingExtraError: lvis is not installed.
    """
    counted = _best_of_each_image(predictions)
    own = counted.select(counted.category_ids == category_id)
    if not len(own):
        return None
    with TemporaryDirectory() as folder:
        path = Path(folder) / "annotations.json"
        path.write_text(json.dumps(_dataset_of_category(truth, category_id)), encoding="utf-8")
        curves = run_reference(path, own).eval
    return curves["precision"][:, :, 0], curves["recall"][:, 0]


def _best_of_each_image(predictions: Predictions) -> Predictions:
    """Keep each image's 300 highest scores, the first of equal ones, in the order given."""
    order = np.lexsort((-predictions.scores, predictions.image_ids))
    images = predictions.image_ids[order]
    ranks = np.arange(len(images)) - np.searchsorted(images, images)
    return predictions.select(np.sort(order[ranks < LVIS_MAX_DETECTIONS]))


def _dataset_of_category(truth: LvisGroundTruth, category_id: int) -> dict[str, object]:
    regions = truth.regions.select(truth.regions.category_ids == category_id)

    def only_own(category_ids: tuple[int, ...]) -> list[int]:
        return [number for number in category_ids if number == category_id]

    return {
        "images": [
            {
                "id": number,
                "neg_category_ids": only_own(labels.negative),
                "not_exhaustive_category_ids": [
                    x for x in labels.not_exhaustive if x == category_id
                ],
            }
            for number, labels in truth.labels.items()
        ],
        "annotations": [
            {
                "id": 0 if regions.ids[row] == 0 else row + 1,
                "image_id": int(regions.image_ids[row]),
                "category_id": category_id,
                "bbox": regions.boxes_xywh[row].tolist(),
                "area": float(regions.areas[row]),
                "ignore": int(regions.is_ignored[row]),
            }
            for row in range(len(regions))
        ],
        "categories": [{"id": category_id, "frequency": "f"}],
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
