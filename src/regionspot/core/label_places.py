"""Places for captions in a picture: beside their boxes and, if possible, off all other ones."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Rect = tuple[float, float, float, float]
"""(x1, y1, x2, y2) in pixels of the picture."""

_GAP = 2.0
# Costs of each pixel of a label on another label or a box: labels must stay legible first.
_COST_OF_LABEL = 12.0
_COST_OF_OTHER_BOX = 1.6
_COST_OF_OWN_BOX = 0.9


def place_labels(
    boxes: Sequence[Rect], sizes_wh: Sequence[tuple[float, float]], picture_wh: tuple[int, int]
) -> list[Rect]:
    """Choose a place inside the picture for the label of every box.

    Labels are placed one by one, those of small boxes first, since these have the fewest good
    places. Each goes where it covers the least of the labels placed so far, of other boxes and of
    its own box.

    Args:
        boxes: The boxes, in pixels of the picture.
        sizes_wh: Width and height of each box's label in pixels.
        picture_wh: Width and height of the picture in pixels.

    Returns:
        One rectangle a box, in the order of the boxes.
    """
    rects = np.array(boxes, np.float64).reshape(-1, 4)
    labels = np.zeros_like(rects)  # a label that is not placed yet covers nothing
    areas = np.maximum(rects[:, 2:] - rects[:, :2], 0).prod(axis=1)
    for index in np.argsort(areas, kind="stable").tolist():
        places = np.array(list(_candidates(boxes[index], sizes_wh[index], picture_wh)))
        costs = np.full(len(boxes), _COST_OF_OTHER_BOX)
        costs[index] = _COST_OF_OWN_BOX
        covered = _overlaps(places, rects) @ costs
        covered += _COST_OF_LABEL * _overlaps(places, labels).sum(axis=1)
        labels[index] = places[covered.argmin()]
    return [(x1, y1, x2, y2) for x1, y1, x2, y2 in labels.tolist()]


def _candidates(
    box: Rect, size_wh: tuple[float, float], picture_wh: tuple[int, int]
) -> Iterator[Rect]:
    """Yield places in order of preference: above, below, beside, then inside the box."""
    (x1, y1, x2, y2), (width, height) = box, size_wh
    lefts = (x1, x2 - width, (x1 + x2 - width) / 2)
    tops = (y1, y2 - height, (y1 + y2 - height) / 2)
    above_or_below = [(left, top) for top in (y1 - height - _GAP, y2 + _GAP) for left in lefts]
    beside = [(left, top) for left in (x2 + _GAP, x1 - width - _GAP) for top in tops]
    inside = [(left, top) for top in tops for left in lefts]
    for wanted_left, wanted_top in (*above_or_below, *beside, *inside):
        left = max(0.0, min(wanted_left, picture_wh[0] - width))
        top = max(0.0, min(wanted_top, picture_wh[1] - height))
        yield left, top, left + width, top + height


def _overlaps(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the area that each of K rectangles, (K, 4), shares with each of N others, (K, N)."""
    widths = np.minimum(first[:, None, 2], second[:, 2]) - np.maximum(
        first[:, None, 0], second[:, 0]
    )
    heights = np.minimum(first[:, None, 3], second[:, 3]) - np.maximum(
        first[:, None, 1], second[:, 1]
    )
    return np.maximum(widths, 0) * np.maximum(heights, 0)
