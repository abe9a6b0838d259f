"""Judges boxes by themselves, in the precision of the file, and turns them into float32 corners."""

import numpy as np
from numpy.typing import NDArray

from regionspot.annotations.report import Dropped, Reason
from regionspot.core.geometry import xywh_to_xyxy

REASONS = tuple(Reason)
"""Reasons by their code: verdicts about millions of annotations are held as small numbers."""
KEPT = -1
"""The code of no reason: the annotation is a region."""

Verdicts = NDArray[np.int8]
_Boxes = tuple[NDArray[np.float32], Verdicts]

_NUM_EXAMPLES = 3
# What float32 cannot add up counts as infinite: boxes are float32 everywhere else.
_HALF_OF_FLOAT32 = float(np.finfo(np.float32).max) / 2


def code_of(reason: Reason) -> int:
    """Return the code of a reason."""
    return REASONS.index(reason)


def judge_xywh(boxes_xywh: NDArray[np.float64], has_box: NDArray[np.bool_]) -> _Boxes:
    """Judge boxes that are given by a corner and their size.

    Args:
        boxes_xywh: (x, y, width, height), (A, 4); anything, NaN and infinity included.
        has_box: Whether there is a box at all, (A,).

    Returns:
        Corners (x1, y1, x2, y2), (A, 4), zero where anything is wrong; and the verdicts, (A,).
    """
    verdicts = _verdicts(boxes_xywh, boxes_xywh[:, 2:], has_box)
    sound_xywh = np.where((verdicts == KEPT)[:, None], boxes_xywh, 0).astype(np.float32)
    return xywh_to_xyxy(sound_xywh), verdicts


def judge_xyxy(boxes_xyxy: NDArray[np.float64], has_box: NDArray[np.bool_] | None = None) -> _Boxes:
    """Judge boxes that are given by two corners, (A, 4); see `judge_xywh`.

    Without ``has_box`` there is a box in every row.
    """
    if has_box is None:
        has_box = np.ones(len(boxes_xyxy), np.bool_)
    with np.errstate(invalid="ignore", over="ignore"):
        sizes_wh = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
    verdicts = _verdicts(boxes_xyxy, sizes_wh, has_box)
    sound_xyxy = np.where((verdicts == KEPT)[:, None], boxes_xyxy, 0)
    return sound_xyxy.astype(np.float32), verdicts


def _verdicts(
    boxes: NDArray[np.float64], sizes_wh: NDArray[np.float64], has_box: NDArray[np.bool_]
) -> Verdicts:
    against = {
        Reason.NO_BOX: ~has_box,
        Reason.NOT_FINITE: ~(np.abs(boxes) < _HALF_OF_FLOAT32).all(axis=1),
        Reason.NEGATIVE_SIZE: (sizes_wh < 0).any(axis=1),
        Reason.ZERO_AREA: (sizes_wh == 0).any(axis=1),
    }
    return first_reasons(np.full(len(boxes), KEPT, np.int8), against)


def first_reasons(verdicts: Verdicts, against: dict[Reason, NDArray[np.bool_]]) -> Verdicts:
    """Enter each reason, in order, where it applies and none was entered before; in place."""
    for reason, applies in against.items():
        verdicts[applies & (verdicts == KEPT)] = code_of(reason)
    return verdicts


def count_dropped(
    verdicts: Verdicts, positions: NDArray[np.int64] | None = None
) -> tuple[Dropped, ...]:
    """Count what each reason was entered for, in the order of `Reason`.

    Args:
        verdicts: A reason, or none, for each entry, (A,).
        positions: Where in its file each entry stands, (A,); None if entry ``i`` is the ``i``-th.
    """
    counted = []
    for index, reason in enumerate(REASONS):
        places = np.flatnonzero(verdicts == index)
        if len(places):
            if positions is not None:
                places = np.sort(positions[places])
            first = tuple(places[:_NUM_EXAMPLES].tolist())
            counted.append(Dropped(reason=reason, count=len(places), first=first))
    return tuple(counted)
