"""A photo with numbered boxes: green where the name is right, red where it is wrong.

Names are listed beside the photo, so that they cover nothing.
`place_labels` puts the numbers next to their boxes and, if possible, off all other ones.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from regionspot.viz.style import (
    NEUTRAL,
    RIGHT,
    WHITE,
    WRONG,
    Colour,
    load_font,
    scaled_photo,
)

Rect = tuple[float, float, float, float]
"""(x1, y1, x2, y2) in pixels of the picture."""

_TICK, _CROSS = "\u2713", "\u2717"
_PADDING_X, _PADDING_Y = 6, 3
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


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedRegion:
    """A region with its predicted name."""

    box_xyxy: tuple[float, float, float, float]
    """Corners in pixels of the original image."""
    name: str
    """The predicted class name."""
    true_name: str | None = None
    """The annotated class name; None where it is unknown."""
    score: float | None = None
    """The probability of the predicted class, 0 to 1; None if there is none to show."""

    @property
    def is_right(self) -> bool | None:
        """Whether the name is the annotated one; None where that is unknown."""
        return None if self.true_name is None else self.name == self.true_name

    @property
    def mark(self) -> str:
        """A tick for a right name, a cross for a wrong one, "" where it is unknown."""
        return "" if self.is_right is None else _TICK if self.is_right else _CROSS

    @property
    def colour(self) -> Colour:
        """Green for a right name, red for a wrong one, blue where it is unknown."""
        return NEUTRAL if self.is_right is None else RIGHT if self.is_right else WRONG


def paint_numbered_regions(
    image: NDArray[np.uint8], regions: Sequence[NamedRegion], *, long_side_px: int
) -> Image.Image:
    """Return an image with a box for each region, numbered from 1 in the order given.

    Boxes of right names are green and their numbers have a tick, those of wrong names are red with
    a cross, so that colour is not the only cue. Small images are enlarged.

    Args:
        image: The image, (H, W, 3) uint8, RGB.
        regions: The regions, in pixels of ``image``; may be empty.
        long_side_px: Long side of the picture in pixels.

    Raises:
        ShapeError: The image is not (H, W, 3) uint8.
    """
    picture, scale = scaled_photo(image, long_side_px)
    draw = ImageDraw.Draw(picture)
    font = number_font(len(regions), long_side_px)
    boxes: list[Rect] = []
    for region in regions:
        x1, y1, x2, y2 = (value * scale for value in region.box_xyxy)
        boxes.append((x1, y1, x2, y2))
        draw_box(draw, boxes[-1], region.colour)
    texts = [f"{number}{region.mark}" for number, region in enumerate(regions, start=1)]
    extents = [font.getbbox(text) for text in texts]
    labels = place_labels(boxes, label_sizes(texts, font), picture.size)
    for region, text, extent, label in zip(regions, texts, extents, labels, strict=True):
        draw.rounded_rectangle(label, radius=4, fill=region.colour, outline=WHITE, width=1)
        position = (label[0] + _PADDING_X - extent[0], label[1] + _PADDING_Y - extent[1])
        draw.text(position, text, fill=WHITE, font=font)
    return picture


def number_font(num_regions: int, long_side_px: int) -> ImageFont.FreeTypeFont:
    """Return the font of the numbers, smaller in crowded images."""
    share = 0.045 if num_regions <= 8 else 0.03
    return load_font(max(11, round(long_side_px * share)), bold=True)


def label_sizes(texts: Iterable[str], font: ImageFont.FreeTypeFont) -> list[tuple[float, float]]:
    """Return width and height of the labels with these texts."""
    extents = [font.getbbox(text) for text in texts]
    return [
        (right - left + 2 * _PADDING_X, bottom - top + 2 * _PADDING_Y)
        for left, top, right, bottom in extents
    ]


def draw_box(draw: ImageDraw.ImageDraw, box: Rect, colour: Colour) -> None:
    """Draw a box with a white rim, which is visible on any background."""
    x1, y1, x2, y2 = box
    x2, y2 = max(x1, x2), max(y1, y2)
    draw.rectangle((x1 - 2, y1 - 2, x2 + 2, y2 + 2), outline=WHITE, width=1)
    draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=colour, width=4)
