"""The look of every picture of the project: colours, fonts, figures without global state."""

import io
from functools import cache
from pathlib import Path
from typing import Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageFont

from regionspot.core.errors import ShapeError

PictureFormat = Literal["png", "jpeg"]
Colour = tuple[int, int, int]

INK = "#1d232b"
MUTED = "#5f6b7a"
GRID = "#e4e8ed"
SOFT = "#f3f5f8"
SERIES = ("#1f5fbf", "#e08a00", "#0f8a6d", "#c2478f", "#5aa9dd", "#7a6a58", "#b8a200", "#6f52b5")
"""Colours of methods and curves, in order; colour-blind readers can tell them apart."""

RIGHT: Colour = (20, 128, 74)
WRONG: Colour = (198, 40, 40)
NEUTRAL: Colour = (31, 95, 191)
WHITE: Colour = (255, 255, 255)

_SHARP_QUALITY = 90


@cache
def load_font(size_px: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Load the font of all pictures, DejaVu Sans, which is part of matplotlib."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / name), size_px)


def fit_text(text: str, font: ImageFont.FreeTypeFont, width_px: float) -> str:
    """Shorten a text that is too wide, ending it in "..."; at least one letter stays."""
    if font.getlength(text) <= width_px:
        return text
    kept = text
    while len(kept) > 1 and font.getlength(f"{kept}...") > width_px:
        kept = kept[:-1]
    return f"{kept}..."


def new_figure(width_in: float, height_in: float) -> Figure:
    """Return an empty figure that is not registered with pyplot and needs no closing."""
    figure = Figure(figsize=(width_in, height_in), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def style_axes(axes: Axes, *, title: str, xlabel: str = "", ylabel: str = "") -> None:
    """Style axes: a title at the left, light horizontal grid lines, no frame."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK, pad=10)
    axes.set_xlabel(xlabel, fontsize=9.5, color=MUTED)
    axes.set_ylabel(ylabel, fontsize=9.5, color=MUTED)
    axes.tick_params(colors=MUTED, labelsize=9, length=0)
    axes.grid(visible=True, axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)


def figure_png(figure: Figure) -> bytes:
    """Render a figure as PNG bytes."""
    buffer = io.BytesIO()
    # Without fixed metadata matplotlib writes its version, and equal plots would differ in bytes.
    figure.savefig(buffer, format="png", facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def encode_picture(
    picture: Image.Image, picture_format: PictureFormat, *, comment: str = "", quality: int = 90
) -> bytes:
    """Encode a picture.

    Args:
        picture: The picture, RGB.
        picture_format: "png" is lossless, "jpeg" a tenth of the size.
        comment: Text for the comment of a JPEG file, in UTF-8.
        quality: Quality of a JPEG. Small coloured letters stay sharp at 90 and more.
    """
    buffer = io.BytesIO()
    if picture_format == "png":
        picture.save(buffer, format="PNG", optimize=True)
    else:
        picture.save(
            buffer,
            format="JPEG",
            quality=quality,
            subsampling=0 if quality >= _SHARP_QUALITY else 2,
            optimize=True,
            comment=comment.encode(),
        )
    return buffer.getvalue()


def scaled_photo(image: NDArray[np.uint8], long_side_px: int) -> tuple[Image.Image, float]:
    """Resize a photo, (H, W, 3) uint8, to ``long_side_px``, and return the scale factor.

    Small photos are enlarged: numbers would not fit on them otherwise.

    Raises:
        ShapeError: The image is not (H, W, 3) uint8.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ShapeError(
            f"the image is {image.dtype} of shape {image.shape}; wanted uint8 (H, W, 3), RGB."
        )
    height, width = image.shape[:2]
    scale = long_side_px / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    photo = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
    return photo, scale
