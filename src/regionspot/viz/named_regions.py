"""A photo with numbered boxes: green where the name is right, red where it is wrong.

Names are listed beside the photo, by the report or by a contact sheet, so that they hide nothing.
`place_labels` decides where the numbers go: next to their boxes, and off each other and off other
boxes where possible.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from regionspot.viz.style import (
    NEUTRAL,
    RIGHT,
    WHITE,
    WRONG,
    Colour,
    PictureFormat,
    encode_picture,
    load_font,
    scaled_photo,
)

Rect = tuple[float, float, float, float]
"""(x1, y1, x2, y2) in pixels of the picture."""

_TICK, _CROSS = "\u2713", "\u2717"
_PADDING_X, _PADDING_Y = 6, 3
_GAP = 2.0
# The cost of covering a label's whole area of each: labels must stay legible above all.
_COST_OF_LABEL = 12.0
_COST_OF_OTHER_BOX = 1.6
_COST_OF_OWN_BOX = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSize:
    """The size of a label, in pixels."""

    width: float
    height: float


def place_labels(
    boxes: Sequence[Rect], sizes: Sequence[LabelSize], picture_wh: tuple[int, int]
) -> list[Rect]:
    """Choose a place inside the picture for the label of every box.

    Labels are placed one by one, those of small boxes first, since these have the fewest good
    places. Each goes where it covers the least of the labels placed so far, of other boxes and of
    its own box.

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


def draw_numbered_regions(
    image: NDArray[np.uint8],
    regions: Sequence[NamedRegion],
    *,
    long_side_px: int = 720,
    picture_format: PictureFormat = "png",
) -> bytes:
    """Draw numbered boxes on an image; see `paint_numbered_regions`.

    Args:
        image: The image, (H, W, 3) uint8, RGB.
        regions: The regions, in pixels of ``image``; may be empty.
        long_side_px: Long side of the picture in pixels.
        picture_format: "png" or "jpeg".

    Returns:
        The encoded picture.

    Raises:
        ShapeError: The image is not (H, W, 3) uint8.
    """
    picture = paint_numbered_regions(image, regions, long_side_px=long_side_px)
    return encode_picture(picture, picture_format)


def paint_numbered_regions(
    image: NDArray[np.uint8], regions: Sequence[NamedRegion], *, long_side_px: int
) -> Image.Image:
    """Return an image with a box for each region, numbered from 1 in the order given.

    Boxes of right names are green and their numbers have a tick, those of wrong names are red with
    a cross, so that colour is not the only cue. Small images are enlarged.

    Raises:
        ShapeError: The image is not (H, W, 3) uint8.
    """
    picture, scale = scaled_photo(image, long_side_px)
    draw = ImageDraw.Draw(picture)
    font = load_font(_font_size(long_side_px, len(regions)), bold=True)
    boxes: list[Rect] = []
    for region in regions:
        x1, y1, x2, y2 = (value * scale for value in region.box_xyxy)
        boxes.append((x1, y1, x2, y2))
        draw_box(draw, boxes[-1], region.colour)
    texts = [f"{number}{region.mark}" for number, region in enumerate(regions, start=1)]
    extents = [draw.textbbox((0, 0), text, font=font) for text in texts]
    sizes = [
        LabelSize(width=right - left + 2 * _PADDING_X, height=bottom - top + 2 * _PADDING_Y)
        for left, top, right, bottom in extents
    ]
    labels = place_labels(boxes, sizes, picture.size)
    for region, text, extent, label in zip(regions, texts, extents, labels, strict=True):
        draw.rounded_rectangle(label, radius=4, fill=region.colour, outline=WHITE, width=1)
        position = (label[0] + _PADDING_X - extent[0], label[1] + _PADDING_Y - extent[1])
        draw.text(position, text, fill=WHITE, font=font)
    return picture


def draw_box(draw: ImageDraw.ImageDraw, box: Rect, colour: Colour) -> None:
    """Draw a box with a white rim, which is visible on any background."""
    x1, y1, x2, y2 = box
    x2, y2 = max(x1, x2), max(y1, y2)
    draw.rectangle((x1 - 2, y1 - 2, x2 + 2, y2 + 2), outline=WHITE, width=1)
    draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=colour, width=4)


def _font_size(long_side_px: int, num_regions: int) -> int:
    """Return the size of the numbers in pixels, smaller in crowded images."""
    share = 0.045 if num_regions <= 8 else 0.03
    return max(11, round(long_side_px * share))
