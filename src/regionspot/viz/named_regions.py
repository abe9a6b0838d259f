"""A picture of an image with its regions and their names: right ones green, wrong ones red."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import ImageDraw

from regionspot.viz.labels import LabelSize, Rect, place_labels
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
