"""Pictures of named regions: boxes, outlines of masks, and captions beside them."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from regionspot.core.geometry import FloatArray
from regionspot.core.label_places import Rect, place_labels
from regionspot.core.text import needs_extra

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
_SHORTEST_SIDE_PX = 480
_PADDING_PX = 3


def draw_regions(
    image: NDArray[np.uint8],
    boxes_xyxy: FloatArray,
    captions: Sequence[str],
    masks: Iterable[NDArray[np.bool_]] = (),
) -> Image.Image:
    """Draw boxes, the outlines of masks, and captions beside the boxes.

    Masks are not tinted, so that the colours of the image stay as they are. A small image is
    enlarged by a whole factor to keep captions readable.

    Args:
        image: Pixels, (H, W, 3) uint8 RGB; not changed.
        boxes_xyxy: Boxes, (R, 4), pixels of the image.
        captions: One text per box.
        masks: One (H, W) bool mask per box, read one at a time; or none at all.
    """
    factor = max(1, -(-_SHORTEST_SIDE_PX // min(image.shape[:2])))
    picture = Image.fromarray(image)
    if factor > 1:
        width, height = picture.size
        picture = picture.resize((width * factor, height * factor), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(picture)
    text_px = max(12, min(picture.size) // 32)
    line_px = max(2, text_px // 8)
    for row, mask in enumerate(masks):
        _draw_outline(draw, mask, factor, line_px, _colour(row))
    boxes: list[Rect] = []
    for row, box in enumerate(boxes_xyxy):
        x1, y1, x2, y2 = (float(value) * factor for value in box)
        boxes.append((x1, y1, x2, y2))
        frame = (x1, y1, max(x1, x2 - 1), max(y1, y2 - 1))
        draw.rectangle(frame, outline=_colour(row), width=line_px)
    _draw_captions(draw, boxes, captions, ImageFont.load_default(text_px))
    return picture


def outline(mask: NDArray[np.bool_], width_px: int) -> NDArray[np.bool_]:
    """Return the pixels of a mask, (H, W), that are fewer than ``width_px`` steps from outside.

    Beyond the image is outside. Steps go left, right, up and down.
    """
    inside = np.pad(mask, width_px)
    for _ in range(width_px):
        rows = inside[1:-1] & inside[:-2] & inside[2:]
        columns = inside[:, :-2] & inside[:, 2:]
        inside = rows[:, 1:-1] & columns[1:-1]
    return mask & ~inside


def _draw_outline(
    draw: ImageDraw.ImageDraw,
    mask: NDArray[np.bool_],
    factor: int,
    width_px: int,
    colour: tuple[int, int, int],
) -> None:
    """Draw the outline of a mask in the enlarged picture; works on the mask's extent only."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return
    part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    enlarged = part.repeat(factor, axis=0).repeat(factor, axis=1)
    line = Image.fromarray(outline(enlarged, width_px) * np.uint8(255))
    draw.bitmap((int(columns[0]) * factor, int(rows[0]) * factor), line, fill=colour)


def _draw_captions(
    draw: ImageDraw.ImageDraw,
    boxes: Sequence[Rect],
    captions: Sequence[str],
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
) -> None:
    """Write white on colour, where the captions cover the least."""
    extents = [draw.textbbox((0, 0), caption, font=font) for caption in captions]
    sizes_wh = [
        (right - left + 2 * _PADDING_PX, bottom - top + 2 * _PADDING_PX)
        for left, top, right, bottom in extents
    ]
    places = place_labels(boxes, sizes_wh, draw.im.size)
    for row, (caption, extent, place) in enumerate(zip(captions, extents, places, strict=True)):
        draw.rectangle(place, fill=_colour(row))
        start = (place[0] + _PADDING_PX - extent[0], place[1] + _PADDING_PX - extent[1])
        draw.text(start, caption, fill="white", font=font)


def _colour(row: int) -> tuple[int, int, int]:
    return _COLOURS[row % len(_COLOURS)]
