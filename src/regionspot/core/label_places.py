"""Places for captions in a picture: beside their boxes and, if possible, off all other ones."""

from collections.abc import Iterator, Sequence
from functools import partial

Rect = tuple[float, float, float, float]
"""(x1, y1, x2, y2) in pixels of the picture."""

_GAP = 2.0
# Costs of a label that lies wholly on another label or a box: labels must stay legible first.
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
    placed: dict[int, Rect] = {}
    for index in sorted(range(len(boxes)), key=lambda i: _area(boxes[i])):
        cost = partial(
            _cost,
            own=boxes[index],
            others=[box for other, box in enumerate(boxes) if other != index],
            taken=list(placed.values()),
        )
        placed[index] = min(_candidates(boxes[index], sizes_wh[index], picture_wh), key=cost)
    return [placed[index] for index in range(len(boxes))]


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


def _cost(rect: Rect, *, own: Rect, others: Sequence[Rect], taken: Sequence[Rect]) -> float:
    area = max(1.0, _area(rect))
    return (
        _COST_OF_LABEL * sum(_overlap(rect, label) for label in taken)
        + _COST_OF_OTHER_BOX * sum(_overlap(rect, box) for box in others)
        + _COST_OF_OWN_BOX * _overlap(rect, own)
    ) / area


def _area(rect: Rect) -> float:
    return max(0.0, rect[2] - rect[0]) * max(0.0, rect[3] - rect[1])


def _overlap(a: Rect, b: Rect) -> float:
    return _area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
