"""A photo with numbered boxes: green where the name is right, red where it is wrong.

Names are listed beside the photo, so that they cover nothing.
`place_labels` puts the numbers next to their boxes and, if possible, off all other ones.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from regionspot.core.label_places import Rect, place_labels
from regionspot.viz.style import (
    NEUTRAL,
    RIGHT,
    WHITE,
    WRONG,
    Colour,
    load_font,
    scaled_photo,
)

_TICK, _CROSS = "\u2713", "\u2717"
_PADDING_X, _PADDING_Y = 6, 3


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
