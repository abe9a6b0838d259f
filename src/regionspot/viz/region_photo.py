"""A photo and the shapes of its regions, which the report draws over it as SVG.

The photo itself is left clean, so that one copy of it serves the names of every method.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from contourpy import LineType, contour_generator
from matplotlib.path import Path as Polygon
from numpy.typing import NDArray
from PIL import Image

from regionspot.core.errors import ShapeError
from regionspot.core.label_places import Rect, place_labels
from regionspot.viz.named_regions import label_sizes, number_font
from regionspot.viz.style import encode_picture, scaled_photo

_LONG_SIDE = 720
_WIDEST_MARK = "\u2717"
_TOLERANCE = 0.7  # of outlines, in units of the drawing: less than a pixel on the screen


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionShape:
    """Where a region and its number are drawn, in units of the drawing."""

    box: Rect
    """The region's box."""
    label: Rect
    """The place of its number."""
    outline: str
    """SVG path data of the outline of its mask; "" without a mask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionPhoto:
    """A photo with the shapes of its regions."""

    data: bytes
    """The photo as JPEG, not enlarged."""
    size_wh: tuple[int, int]
    """Width and height of the drawing over it in its own units, which are not pixels."""
    font_size: int
    """Size of the numbers in these units."""
    shapes: tuple[RegionShape, ...]
    """One shape a region."""


def outline_regions(
    image: NDArray[np.uint8],
    boxes: Sequence[Rect],
    masks: Iterable[NDArray[np.bool_]] | None = None,
) -> RegionPhoto:
    """Encode a photo, and say where to draw its regions.

    Args:
        image: The image, (H, W, 3) uint8, RGB.
        boxes: Boxes of the R regions, in pixels of ``image``; may be empty.
        masks: Masks of the regions, (H, W) bool each; None without masks.

    Raises:
        ShapeError: The image is not (H, W, 3) uint8, or a mask has another size.
    """
    photo, _ = scaled_photo(image, min(_LONG_SIDE, max(image.shape[:2])))
    scale = _LONG_SIDE / max(image.shape[:2])
    size_wh = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    scaled = [_scaled(box, scale) for box in boxes]
    font = number_font(len(boxes), _LONG_SIDE)
    texts = [f"{number}{_WIDEST_MARK}" for number in range(1, len(boxes) + 1)]
    labels = place_labels(scaled, label_sizes(texts, font), size_wh)
    outlines = repeat("") if masks is None else (_outline(m, image, size_wh) for m in masks)
    return RegionPhoto(
        data=encode_picture(photo, "jpeg"),
        size_wh=size_wh,
        font_size=round(font.size),
        shapes=tuple(
            RegionShape(box=box, label=label, outline=outline)
            for box, label, outline in zip(scaled, labels, outlines, strict=masks is not None)
        ),
    )


def _scaled(box: Rect, scale: float) -> Rect:
    x1, y1, x2, y2 = (round(value * scale, 1) for value in box)
    return x1, y1, max(x1, x2), max(y1, y2)


def _outline(mask: NDArray[np.bool_], image: NDArray[np.uint8], size_wh: tuple[int, int]) -> str:
    """Return the borders of a mask as SVG path data, simplified."""
    if mask.shape != image.shape[:2]:
        raise ShapeError(f"a mask of shape {mask.shape}; wanted that of its image, (H, W).")
    reduced = Image.fromarray(mask)
    reduced.thumbnail(size_wh, Image.Resampling.NEAREST)
    values = np.pad(np.asarray(reduced, np.float32), 1)
    scale_xy = np.array(size_wh) / np.array(reduced.size)
    lines = contour_generator(z=values, line_type=LineType.Separate).lines(0.5)
    paths = []
    for points in lines:
        # The centre of the first pixel is at 1 after padding, and at 0.5 in the image.
        polygon = Polygon((np.asarray(points) - 0.5) * scale_xy)
        polygon.simplify_threshold = _TOLERANCE
        simple = np.asarray(polygon.cleaned(simplify=True).vertices, np.float64)
        corners = simple[:-1].tolist()  # the last one stands for "stop"
        paths.append("M" + " ".join(f"{x:.0f} {y:.0f}" for x, y in corners) + "Z")
    return "".join(paths)
