"""Attention maps: the patches that each region attends to in the head's last block.

Shape letters: R regions, T tokens of the feature map (the class token, then P patches, row by row).
"""

import math
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

from regionspot.core.errors import ShapeError
from regionspot.viz.named_regions import NamedRegion, draw_box
from regionspot.viz.style import (
    INK,
    MUTED,
    WHITE,
    Colour,
    PictureFormat,
    encode_picture,
    fit_text,
    load_font,
    scaled_photo,
)

_COLUMNS = 3
_GUTTER = 14
_BOX: Colour = (0, 214, 255)


def draw_attention(
    image: NDArray[np.uint8],
    regions: Sequence[NamedRegion],
    attention: NDArray[np.float32],
    *,
    tile_px: int = 320,
    picture_format: PictureFormat = "png",
) -> bytes:
    """Draw one tile per region: the image in grey, the region's box, and its attention.

    Patches with more attention than the mean are coloured, brighter for more, up to the region's
    strongest patch. The share of the class token is written above the tile.

    Args:
        image: The image, (H, W, 3) uint8, RGB; all of it is covered by the feature map.
        regions: The R regions, at least one.
        attention: Attention of each region to each token, (R, T); rows sum to 1. Token 0 is the
            class token, the others are the patches of a square grid, row by row.
        tile_px: Width of a tile in pixels.
        picture_format: "png" or "jpeg".

    Returns:
        The encoded contact sheet.

    Raises:
        ShapeError: The map is not (R, 1 + n * n), or there is no region.
    """
    side = _grid_side(attention, len(regions))
    photo, _ = scaled_photo(image, tile_px)
    if photo.width != tile_px:
        photo, _ = scaled_photo(image, round(tile_px * photo.height / photo.width))
    scale = photo.width / image.shape[1]
    tiles = [
        _tile(photo, region, weights, side=side, scale=scale)
        for region, weights in zip(regions, attention, strict=True)
    ]
    columns = min(_COLUMNS, len(tiles))
    rows = math.ceil(len(tiles) / columns)
    width, height = tiles[0].size
    sheet = Image.new(
        "RGB", (columns * (width + _GUTTER) - _GUTTER, rows * (height + _GUTTER) - _GUTTER), WHITE
    )
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        sheet.paste(tile, (column * (width + _GUTTER), row * (height + _GUTTER)))
    return encode_picture(sheet, picture_format)


def _grid_side(attention: NDArray[np.float32], num_regions: int) -> int:
    tokens = attention.shape[1] if attention.ndim == 2 else 0
    side = math.isqrt(max(0, tokens - 1))
    if not num_regions or attention.shape != (num_regions, 1 + side * side) or not side:
        raise ShapeError(
            f"attention of shape {attention.shape} for {num_regions} regions; wanted (R, 1 + n * n)"
            " with at least one region: the class token, then a square grid of patches."
        )
    return side


def _tile(
    photo: Image.Image,
    region: NamedRegion,
    weights: NDArray[np.float32],
    *,
    side: int,
    scale: float,
) -> Image.Image:
    patches = weights[1:].reshape(side, side)
    # Uniform attention carries no information: show only what exceeds the mean.
    surplus = np.clip(patches - patches.mean(), 0, None)
    strength = surplus / max(float(surplus.max()), 1e-12)
    # Nearest neighbour: patches are the head's resolution.
    heat = Image.fromarray((strength * 255).astype(np.uint8)).resize(
        photo.size, Image.Resampling.NEAREST
    )
    relative = np.asarray(heat, np.float32)[..., None] / 255
    grey = np.asarray(ImageOps.grayscale(photo), np.float32)[..., None] * 0.75
    colours = mpl.colormaps["inferno"](0.35 + 0.6 * relative[..., 0])[..., :3] * 255
    blend = np.clip(1.25 * np.sqrt(relative), 0, 0.8)
    picture = Image.fromarray((grey * (1 - blend) + colours * blend).astype(np.uint8))
    box = [value * scale for value in region.box_xyxy]
    draw_box(ImageDraw.Draw(picture), (box[0], box[1], box[2], box[3]), _BOX)
    return _with_title(picture, region.name, f"whole image {100 * float(weights[0]):.0f}%")


def _with_title(picture: Image.Image, name: str, detail: str) -> Image.Image:
    size = max(11, round(picture.width * 0.047))
    font, small = load_font(size, bold=True), load_font(round(size * 0.88))
    header = round(size * 2.75)
    tile = Image.new("RGB", (picture.width, picture.height + header), WHITE)
    tile.paste(picture, (0, header))
    draw = ImageDraw.Draw(tile)
    draw.text((0, 0), fit_text(name, font, picture.width), fill=INK, font=font)
    draw.text((0, round(size * 1.35)), detail, fill=MUTED, font=small)
    return tile
