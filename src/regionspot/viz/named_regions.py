"""A picture of an image with its regions and their names: right ones green, wrong ones red.

Where names go on a picture: beside their boxes, over neither other names nor other boxes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import ImageDraw

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


_TICK, _CROSS = "\u2713", "\u2717"
_PADDING_X, _PADDING_Y = 6, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedRegion:
    """One region and what it was called."""

    box_xyxy: tuple[float, float, float, float]
    """Corners in pixels of the original image."""
    name: str
    """The predicted class name."""
    true_name: str | None = None
    """The annotated class name; None where nobody knows it."""
    score: float | None = None
    """The probability of the predicted class, 0 to 1; None leaves it out."""

    @property
    def is_right(self) -> bool | None:
        """Whether the name is the annotated one; None where nobody knows."""
        return None if self.true_name is None else self.name == self.true_name


def draw_named_regions(
    image: NDArray[np.uint8],
    regions: Sequence[NamedRegion],
    *,
    long_side_px: int = 720,
    picture_format: PictureFormat = "png",
) -> bytes:
    """Draw boxes with names on an image.

    A right name is green with a tick, a wrong one red with a cross and the true name below it, so
    that colour is not the only sign; a name nobody can check is blue. Small images are enlarged.

    Args:
        image: The image, (H, W, 3) uint8, RGB.
        regions: What to draw, in pixels of ``image``; may be empty.
        long_side_px: Long side of the picture in pixels.
        picture_format: "png" or "jpeg".

    Returns:
        The encoded picture.

    Raises:
        ShapeError: The image is not (H, W, 3) uint8.
    """
    picture, scale = scaled_photo(image, long_side_px)
    draw = ImageDraw.Draw(picture)
    font = load_font(_font_size(picture.width, len(regions)))
    boxes: list[Rect] = []
    for region in regions:
        x1, y1, x2, y2 = (value * scale for value in region.box_xyxy)
        boxes.append((x1, y1, x2, y2))
        draw_box(draw, boxes[-1], _colour_of(region))
    texts = [_label_of(region) for region in regions]
    extents = [draw.multiline_textbbox((0, 0), text, font=font, spacing=2) for text in texts]
    sizes = [
        LabelSize(width=right - left + 2 * _PADDING_X, height=bottom - top + 2 * _PADDING_Y)
        for left, top, right, bottom in extents
    ]
    labels = place_labels(boxes, sizes, picture.size)
    for region, text, extent, label in zip(regions, texts, extents, labels, strict=True):
        draw.rounded_rectangle(label, radius=4, fill=_colour_of(region), outline=WHITE, width=1)
        position = (label[0] + _PADDING_X - extent[0], label[1] + _PADDING_Y - extent[1])
        draw.multiline_text(position, text, fill=WHITE, font=font, spacing=2)
    return encode_picture(picture, picture_format)


def draw_box(draw: ImageDraw.ImageDraw, box: Rect, colour: Colour) -> None:
    """Draw a box with a white rim, which shows on any background."""
    x1, y1, x2, y2 = box
    x2, y2 = max(x1, x2), max(y1, y2)
    draw.rectangle((x1 - 2, y1 - 2, x2 + 2, y2 + 2), outline=WHITE, width=1)
    draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=colour, width=4)


def _font_size(width_px: int, num_regions: int) -> int:
    """Return a size in pixels: a share of the width, which pages fix; less where it is crowded."""
    share = 0.03 if num_regions <= 8 else 0.023
    return max(11, round(width_px * share))


def _colour_of(region: NamedRegion) -> Colour:
    if region.is_right is None:
        return NEUTRAL
    return RIGHT if region.is_right else WRONG


def _label_of(region: NamedRegion) -> str:
    score = "" if region.score is None else f" {100 * region.score:.0f}%"
    if region.is_right is None:
        return f"{region.name}{score}"
    if region.is_right:
        return f"{_TICK} {region.name}{score}"
    return f"{_CROSS} {region.name}{score}\n= {region.true_name}"
