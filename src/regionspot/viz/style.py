"""The style of all pictures: colours, fonts, axes, and their encoding."""

import io
from collections.abc import Sequence
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
"""Colours of methods and curves, in order, distinct for colour-blind readers."""

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
    """Shorten a text that is too wide with "...", to one letter at least."""
    if font.getlength(text) <= width_px:
        return text
    kept = text
    while len(kept) > 1 and font.getlength(f"{kept}...") > width_px:
        kept = kept[:-1]
    return f"{kept}..."


def new_axes(
    size_in: tuple[float, float], *, title: str, xlabel: str = "", ylabel: str = ""
) -> tuple[Figure, Axes]:
    """Return an empty figure and its axes in our style; see `new_panels`."""
    figure, panels = new_panels(size_in, titles=[title], xlabel=xlabel, ylabel=ylabel)
    return figure, panels[0]


def new_panels(
    size_in: tuple[float, float], *, titles: Sequence[str], xlabel: str = "", ylabel: str = ""
) -> tuple[Figure, list[Axes]]:
    """Return an empty figure, not registered with pyplot, and axes side by side in our style.

    Args:
        size_in: Width and height in inches.
        titles: A title for each panel, above the axes at the left.
        xlabel: Label below the axes.
        ylabel: Label beside the first axes; all have the same range.
    """
    figure = Figure(figsize=size_in, dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(1, len(titles), sharey=True, squeeze=False)[0])
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK, pad=10)
        axes.set_xlabel(xlabel, fontsize=9.5, color=MUTED)
        axes.set_ylabel(ylabel, fontsize=9.5, color=MUTED)
        axes.tick_params(colors=MUTED, labelsize=9, length=0)
        axes.grid(visible=True, axis="y", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set_color(GRID)
    return figure, panels


def figure_png(figure: Figure) -> bytes:
    """Render a figure as PNG bytes."""
    buffer = io.BytesIO()
    # Without the version of matplotlib, so that equal plots are equal bytes.
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

    Small photos are enlarged so that numbers fit on them.

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
