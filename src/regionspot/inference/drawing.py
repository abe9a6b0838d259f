"""A plain picture of named regions."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from regionspot.core.extras import needs_extra
from regionspot.core.geometry import FloatArray

with needs_extra("extract"):
    from PIL import Image, ImageDraw, ImageFont

_COLOURS = (
    (230, 25, 75),
    (60, 180, 75),
    (0, 130, 200),
    (245, 130, 48),
    (145, 30, 180),
    (0, 128, 128),
    (170, 110, 40),
    (128, 0, 0),
)
_MASK_OPACITY = 0.4
_SHORTEST_SIDE_PX = 480


def draw_regions(
    image: NDArray[np.uint8],
    boxes_xyxy: FloatArray,
    captions: Sequence[str],
    masks: Iterable[NDArray[np.bool_]] = (),
) -> Image.Image:
    """Draw boxes with captions, and masks as a tint.

    A small image is enlarged by a whole factor, so that captions stay readable.

    Args:
        image: Pixels, (H, W, 3) uint8 RGB; not changed.
        boxes_xyxy: Boxes, (R, 4), pixels of the image.
        captions: One text a box.
        masks: One (H, W) bool mask a box, taken one at a time; or none at all.
    """
    factor = max(1, -(-_SHORTEST_SIDE_PX // min(image.shape[:2])))
    picture = Image.fromarray(image)
    for row, mask in enumerate(masks):
        opacity = Image.fromarray(mask * np.uint8(_MASK_OPACITY * 255))
        picture.paste(_COLOURS[row % len(_COLOURS)], mask=opacity)
    if factor > 1:
        width, height = picture.size
        picture = picture.resize((width * factor, height * factor), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(picture)
    text_px = max(12, min(picture.size) // 32)
    font = ImageFont.load_default(text_px)
    for row, (box, caption) in enumerate(zip(boxes_xyxy, captions, strict=True)):
        colour = _COLOURS[row % len(_COLOURS)]
        x1, y1, x2, y2 = (float(value) * factor for value in box)
        frame = (x1, y1, max(x1, x2 - 1), max(y1, y2 - 1))
        draw.rectangle(frame, outline=colour, width=max(2, text_px // 8))
        _caption(draw, (x1, y1), caption, colour, font)
    return picture


def _caption(
    draw: ImageDraw.ImageDraw,
    corner_xy: tuple[float, float],
    caption: str,
    colour: tuple[int, int, int],
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
) -> None:
    """Write white on colour, above the box if there is room, and always inside the picture."""
    left, top, right, bottom = draw.textbbox((0, 0), caption, font=font)
    width, height = right - left + 6, bottom - top + 6
    picture_width, _picture_height = draw.im.size
    x = max(0.0, min(corner_xy[0], picture_width - width))
    y = corner_xy[1] - height if corner_xy[1] >= height else corner_xy[1]
    draw.rectangle((x, y, x + width, y + height), fill=colour)
    draw.text((x + 3 - left, y + 3 - top), caption, fill="white", font=font)
