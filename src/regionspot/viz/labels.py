"""Where names go on a picture: beside their boxes, over neither other names nor other boxes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Rect = tuple[float, float, float, float]
"""(x1, y1, x2, y2) in pixels of the picture."""

_GAP = 2.0
# What it costs to cover a whole label's area of each: names must stay legible above all.
_COST_OF_LABEL = 12.0
_COST_OF_OTHER_BOX = 1.6
_COST_OF_OWN_BOX = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSize:
    """The room that a label needs, in pixels."""

    width: float
    height: float


def place_labels(
    boxes: Sequence[Rect], sizes: Sequence[LabelSize], picture_wh: tuple[int, int]
) -> list[Rect]:
    """Choose a place inside the picture for the label of every box.

    Labels are placed one after the other, those of small boxes first, since they have the fewest
    good places. Each goes where it covers the least of the labels placed before, of other boxes,
    and of its own box.

    Args:
        boxes: The boxes, in pixels of the picture.
        sizes: The size of each box's label.
        picture_wh: Width and height of the picture in pixels.

    Returns:
        One rectangle a box, in the order of the boxes.
    """
    placed: dict[int, Rect] = {}
    for index in sorted(range(len(boxes)), key=lambda i: _area(boxes[i])):
        others = [box for other, box in enumerate(boxes) if other != index]
        taken = list(placed.values())
        own = boxes[index]
        placed[index] = min(
            _candidates(own, sizes[index], picture_wh),
            key=lambda rect, own=own, others=others, taken=taken: _cost(  # type: ignore[misc]
                rect, own, others, taken
            ),
        )
    return [placed[index] for index in range(len(boxes))]


def _candidates(box: Rect, size: LabelSize, picture_wh: tuple[int, int]) -> Iterator[Rect]:
    """Yield places in order of preference: above, below, beside, then inside the box."""
    x1, y1, x2, y2 = box
    lefts = (x1, x2 - size.width, (x1 + x2 - size.width) / 2)
    tops_outside = (y1 - size.height - _GAP, y2 + _GAP)
    tops_beside = (y1, y2 - size.height, (y1 + y2 - size.height) / 2)
    for top in tops_outside:
        for left in lefts:
            yield _inside((left, top), size, picture_wh)
    for left in (x2 + _GAP, x1 - size.width - _GAP):
        for top in tops_beside:
            yield _inside((left, top), size, picture_wh)
    for top in tops_beside:
        for left in lefts:
            yield _inside((left, top), size, picture_wh)


def _inside(top_left: tuple[float, float], size: LabelSize, picture_wh: tuple[int, int]) -> Rect:
    left = max(0.0, min(top_left[0], picture_wh[0] - size.width))
    top = max(0.0, min(top_left[1], picture_wh[1] - size.height))
    return left, top, left + size.width, top + size.height


def _cost(rect: Rect, own: Rect, others: Sequence[Rect], taken: Sequence[Rect]) -> float:
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
