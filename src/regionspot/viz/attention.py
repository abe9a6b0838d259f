"""Attention maps: what each region attends to in the head's last block, drawn over the photo.

Values are shown as multiples of uniform attention: 1 where a patch gets the mean of all patches.

Shape letters: R regions, T tokens of the feature map (the first token, then P patches, row by row).
"""

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from regionspot.core.errors import ShapeError
from regionspot.core.label_places import Rect
from regionspot.core.patch_grid import square_grid_hw
from regionspot.viz.named_regions import draw_box
from regionspot.viz.style import MUTED, Colour, encode_picture, figure_png, scaled_photo

_BOX: Colour = (0, 214, 255)
_COLOURS = mpl.colormaps["inferno"]
_LEAST_LIMIT = 2.0
_LIMIT_PERCENTILE = 99.0
_MAX_OPACITY = 0.75


def attention_limit(attention: NDArray[np.float32]) -> float:
    """Return the upper end of the colour scale for the maps of an image.

    Args:
        attention: Attention of each region to each token, (R, T).

    Returns:
        The multiple of uniform attention that 1 % of the patches exceed; at least 2.

    Raises:
        ShapeError: The patches do not form a square grid, or there is no region.
    """
    multiples = [_multiples(row).ravel() for row in attention]
    if not multiples:
        raise ShapeError("attention of no region; wanted that of at least one.")
    return max(_LEAST_LIMIT, float(np.percentile(multiples, _LIMIT_PERCENTILE)))


def attention_in_box(attention: NDArray[np.float32], box: Rect, size_hw: tuple[int, int]) -> float:
    """Return the share of the attention to patches that lies in a box, 0..1.

    A patch that is partly in the box counts by the share of its area.

    Args:
        attention: Attention of a region to each token, (T,).
        box: The box, in pixels of the image.
        size_hw: Height and width of the image, all of which the patches cover.

    Raises:
        ShapeError: The patches do not form a square grid.
    """
    multiples = _multiples(attention)
    side = len(multiples)
    x1, y1, x2, y2 = box
    rows = _covered(y1 / size_hw[0], y2 / size_hw[0], side)
    columns = _covered(x1 / size_hw[1], x2 / size_hw[1], side)
    return float(rows @ multiples @ columns) / (side * side)


def draw_attention(
    image: NDArray[np.uint8],
    box: Rect,
    attention: NDArray[np.float32],
    *,
    limit: float,
    long_side_px: int = 320,
) -> bytes:
    """Draw a region's attention over the image: a smooth, transparent heat map, and the box.

    The map is interpolated bicubically between the patches. Where attention is uniform or less, the
    photo shows; the colours are those of `draw_attention_scale`.

    Args:
        image: The image, (H, W, 3) uint8, RGB; all of it is covered by the feature map.
        box: The region's box, in pixels of ``image``.
        attention: Its attention to each token, (T,). Token 0 is the first token (for many CLIPs
            the class token), the others are the patches of a square grid, row by row.
        limit: The multiple of uniform attention at the upper end of the colours, over 1.
        long_side_px: Long side of the picture in pixels.

    Returns:
        A JPEG.

    Raises:
        ShapeError: The patches do not form a square grid, or the image is not (H, W, 3) uint8.
    """
    multiples = _multiples(attention)
    photo, scale = scaled_photo(image, long_side_px)
    smooth = Image.fromarray(multiples).resize(photo.size, Image.Resampling.BICUBIC)
    heated = _heated(np.asarray(photo, np.float32), np.asarray(smooth), limit)
    picture = Image.fromarray(heated.astype(np.uint8))
    x1, y1, x2, y2 = (value * scale for value in box)
    draw_box(ImageDraw.Draw(picture), (x1, y1, x2, y2), _BOX)
    return encode_picture(picture, "jpeg", quality=85)


def draw_attention_scale(limit: float) -> bytes:
    """Draw the colours of `draw_attention` over grey, with their multiples of uniform attention."""
    figure = Figure(figsize=(4.2, 0.62), dpi=160, layout="constrained")
    axes = figure.add_subplot()
    values = np.linspace(1.0, limit, 512, dtype=np.float32)[None]
    grey = np.full((1, 512, 3), 190, np.float32)
    axes.imshow(_heated(grey, values, limit) / 255, aspect="auto", extent=(1, limit, 0, 1))
    axes.set_yticks([])
    ticks = np.linspace(1, limit, 4)
    axes.set_xticks(ticks, ["1x", *(f"{tick:.1f}x" for tick in ticks[1:-1]), f"{limit:.1f}x+"])
    axes.tick_params(colors=MUTED, labelsize=8, length=2)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure_png(figure)


def _multiples(attention: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the attention to patches as multiples of their mean, (rows, columns)."""
    if attention.ndim != 1:
        raise ShapeError(f"attention of shape {attention.shape}; wanted (T,).")
    patches = attention[1:].reshape(square_grid_hw(len(attention) - 1))
    multiples: NDArray[np.float32] = patches / max(float(patches.mean()), 1e-12)
    return multiples.astype(np.float32)


def _covered(low: float, high: float, side: int) -> NDArray[np.float64]:
    """Return the share of each patch along an axis that lies in an interval, 0..1."""
    starts = np.arange(side)
    covered = np.minimum(high * side, starts + 1) - np.maximum(low * side, starts)
    return np.clip(covered, 0.0, 1.0)


def _heated(
    photo: NDArray[np.float32], multiples: NDArray[np.float32], limit: float
) -> NDArray[np.float32]:
    """Blend colours over a photo of 0..255, more opaque for more attention."""
    strength = np.clip((multiples - 1) / (limit - 1), 0, 1)
    opacity = _MAX_OPACITY * np.sqrt(strength)[..., None]
    colours = 255 * _COLOURS(0.3 + 0.7 * strength)[..., :3]
    blended: NDArray[np.float32] = photo * (1 - opacity) + colours * opacity
    return blended.clip(0, 255)
