"""The figures that both metrics have, LVIS AP and COCO AP."""

from dataclasses import dataclass, fields
from types import ModuleType
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from regionspot.annotations import Frequency
from regionspot.core.errors import ConfigError, MissingExtraError
from regionspot.core.rle_masks import RleMasks

Metric = Literal["lvis", "coco"]
"""What AP means: LVIS (federated labels, 300 predictions an image) or COCO (every class is
annotated in every image, 100 predictions a class and image)."""

METRIC_NOTES: dict[Metric, str] = {
    "lvis": (
        "LVIS AP. LVIS labels are federated: a prediction counts against a method only if its class"
        " was looked for in that image. So AP is far higher than top-1 accuracy."
    ),
    "coco": (
        "COCO AP. Every class counts in every image: a box that is also predicted as a wrong class"
        " costs precision there, however low its score is ranked. Not comparable with LVIS AP."
    ),
}

IouType = Literal["bbox", "segm"]
"""Whether predictions find regions by the IoU of boxes (AP) or of masks (mask AP)."""

IOU_TYPE_NOTES: dict[IouType, str] = {
    "bbox": "AP is by boxes: a prediction finds a region by the IoU of their boxes.",
    "segm": (
        "Mask AP: a prediction finds a region by the IoU of their masks, and its size is the area"
        " of its mask. Not comparable with AP by boxes."
    ),
}

Scorer = Literal["hotcoco", "reference"]
"""Who computes precision and recall: hotcoco, or the reference implementation of the metric
(`lvis.LVISEval`, pycocotools' `COCOeval`). Both give the same figures."""

SIZES = ("all", "small", "medium", "large")
"""The size ranges of regions, in the order in which evaluators list them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryScore:
    """How one category did."""

    category_id: int
    """The data set's own category id."""
    name: str
    """The class name."""
    frequency: Frequency | None
    """Rare, common or frequent in LVIS; None elsewhere."""
    num_annotations: int
    """Annotated regions of this category."""
    AP: float | None
    """Average precision in percent; None where the category has no ground truth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApScores:
    """Figures in percent; None where no category has the ground truth that a figure needs."""

    AP: float | None
    """Mean over IoU thresholds 0.50 to 0.95 and over categories with ground truth."""
    AP50: float | None
    """The same at IoU 0.50 alone."""
    AP75: float | None
    """The same at IoU 0.75 alone."""
    APs: float | None
    """Regions smaller than 32 x 32 px."""
    APm: float | None
    """Regions between 32 x 32 and 96 x 96 px."""
    APl: float | None
    """Regions larger than 96 x 96 px."""
    AR: float | None
    """Mean recall with 300 predictions an image (LVIS), or 100 a class and image (COCO)."""
    ARs: float | None
    """The same for small regions."""
    ARm: float | None
    """The same for medium regions."""
    ARl: float | None
    """The same for large regions."""
    per_category: tuple[CategoryScore, ...]
    """Every category, in order of ids."""
    precision50: tuple[float, ...] = ()
    """Precision in percent at 101 recall levels and IoU 0.50, the mean over categories with ground
    truth; () where there is none."""

    def figures(self) -> dict[str, float | None]:
        """Return the figures by name, in percent."""
        names = [item.name for item in fields(self) if item.name.startswith("A")]
        return {name: getattr(self, name) for name in names}


def check_scorer(scorer: str) -> None:
    """Check the name of a scorer.

    Raises:
        ConfigError: There is none of this name.
    """
    if scorer not in get_args(Scorer):
        raise ConfigError(
            f"there is no scorer {scorer!r}. Set --scorer to one of {', '.join(get_args(Scorer))}."
        )


def check_iou_type(iou_type: str) -> None:
    """Check what IoU is taken of.

    Raises:
        ConfigError: It is neither boxes nor masks.
    """
    if iou_type not in get_args(IouType):
        raise ConfigError(f"there is no IoU type {iou_type!r}. Set --iou_type to bbox or segm.")


def mean_percent(values: NDArray[np.float64]) -> float | None:
    """Average what is defined (-1 marks categories without ground truth), in percent."""
    defined = values[values > -1]
    return 100.0 * float(np.mean(defined)) if len(defined) else None


def mean_curve(precision: NDArray[np.float64]) -> tuple[float, ...]:
    """Average precision (101, C) over the categories with ground truth, in percent."""
    defined = precision[:, precision[0] > -1]
    return tuple((100 * defined.mean(axis=1)).tolist()) if defined.shape[1] else ()


def load_detections(truth: Any, table: NDArray[np.float64], masks: RleMasks | None) -> Any:
    """Hand predictions to hotcoco.

    Args:
        truth: The ground truth, a `hotcoco.COCO`.
        table: Image, x, y, width, height, score and category of each prediction, (N, 7).
        masks: Their masks, whose areas then are the sizes of the predictions; None for boxes.
    """
    if masks is None:
        return truth.load_res(table)
    detections = truth.load_res(table, segmentation=masks.to_coco())
    detections.update_anns(ids=np.arange(1, len(table) + 1), area=masks.areas())
    return detections


def match(evaluation: Any, *, by_size: bool, max_detections: int | None = None) -> Any:
    """Let hotcoco match predictions with the ground truth, and return its evaluator.

    Args:
        evaluation: A `hotcoco.COCOeval`.
        by_size: Whether to match within small, medium and large regions, too.
        max_detections: Predictions that count of an image; None for those of the metric.
    """
    parameters = evaluation.params
    if max_detections is not None:
        parameters.max_dets = [max_detections]
    if not by_size:
        parameters.area_rng = parameters.area_rng[:1]
        parameters.area_rng_lbl = parameters.area_rng_lbl[:1]
    evaluation.params = parameters
    evaluation.evaluate()
    return evaluation


def curves(evaluation: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return precision (IoU, recall, C, size) and recall (IoU, C, size) of matched predictions."""
    evaluation.accumulate()
    # The last axis is "at most N predictions": the last of COCO's 1, 10 and 100, LVIS's only one.
    precision, recall = (
        np.array(evaluation.eval[name][..., -1]) for name in ("precision", "recall")
    )
    return precision, recall


def import_hotcoco() -> ModuleType:
    """Import hotcoco, which only scoring needs.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import hotcoco
    except ImportError as error:
        raise MissingExtraError(
            'scoring needs hotcoco: type `pip install "regionspot[eval]"`.'
        ) from error
    return hotcoco
