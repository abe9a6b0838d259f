"""A contact sheet: photos side by side, each with the list of its regions' names below it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from regionspot.core.errors import ShapeError
from regionspot.viz.named_regions import NamedRegion, paint_numbered_regions
from regionspot.viz.style import (
    INK,
    MUTED,
    SOFT,
    WHITE,
    PictureFormat,
    encode_picture,
    fit_text,
    load_font,
)

_MARGIN, _GUTTER = 16, 28
_FONT_SHARE = 0.0155  # of the sheet's width: 13 px on a page that shows it 830 px wide
_LINE_HEIGHT = 1.5  # in font sizes


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedPhoto:
    """A photo of a contact sheet."""

    title: str
    """The line above its names, such as "Image 42: 3 of 4 right"."""
    image: NDArray[np.uint8]
    """The image, (H, W, 3) uint8, RGB."""
    regions: tuple[NamedRegion, ...]
    """Its regions, in pixels of ``image``."""


def draw_contact_sheet(
    photos: Sequence[NamedPhoto],
    *,
    width_px: int = 1400,
    max_columns: int | None = None,
    picture_format: PictureFormat = "jpeg",
) -> bytes:
    """Draw photos with numbered boxes side by side, and the names by number below each.

    Args:
        photos: The photos, at least one, from left to right and from top to bottom.
        width_px: Width of the sheet in pixels.
        max_columns: Photos side by side; None for all.
        picture_format: "jpeg" or "png".

    Returns:
        The picture; a row as JPEG has at most about 200 kB. The comment of a JPEG is the text of
        `describe_sheet`.

    Raises:
        ShapeError: There is no photo, or an image is not (H, W, 3) uint8.
    """
    if not photos:
        raise ShapeError("the contact sheet has no photos; wanted at least one.")
    num_columns = min(len(photos), max_columns or len(photos))
    column_px = (width_px - 2 * _MARGIN - (num_columns - 1) * _GUTTER) // num_columns
    size = round(width_px * _FONT_SHARE)
    columns = [_draw_column(photo, column_px, size) for photo in photos]
    rows = [columns[start : start + num_columns] for start in range(0, len(photos), num_columns)]
    heights_px = [max(column.height for column in row) for row in rows]
    sheet = Image.new("RGB", (width_px, _MARGIN + sum(heights_px)), WHITE)
    for place, row in enumerate(rows):
        for number, column in enumerate(row):
            left = _MARGIN + number * (column_px + _GUTTER)
            sheet.paste(column, (left, _MARGIN + sum(heights_px[:place])))
    return encode_picture(sheet, picture_format, comment=describe_sheet(photos), quality=80)


def describe_sheet(photos: Sequence[NamedPhoto]) -> str:
    """Return the text of a sheet: each photo's title, then a line for each of its regions."""
    lines = []
    for photo in photos:
        lines.append(photo.title)
        for number, region in enumerate(photo.regions, start=1):
            true_name = "" if region.is_right is not False else f" (true name: {region.true_name})"
            lines.append(f"{number}{region.mark} {region.name}{_percent(region)}{true_name}")
    return "\n".join(lines)


def _draw_column(photo: NamedPhoto, width_px: int, font_px: int) -> Image.Image:
    """Draw a photo in a square, and its list below."""
    line = round(font_px * _LINE_HEIGHT)
    num_lines = 1 + len(photo.regions) + sum(one.is_right is False for one in photo.regions)
    column = Image.new("RGB", (width_px, width_px + (num_lines + 1) * line), WHITE)
    picture = paint_numbered_regions(photo.image, photo.regions, long_side_px=width_px)
    column.paste(SOFT, (0, 0, width_px, width_px))
    column.paste(picture, ((width_px - picture.width) // 2, (width_px - picture.height) // 2))
    draw = ImageDraw.Draw(column)
    y = width_px + line // 2
    _write(draw, photo.title, (0, y), width_px, font_px, colour=MUTED)
    for number, region in enumerate(photo.regions, start=1):
        y += line
        draw.text((0, y), f"{number}{region.mark}", fill=region.colour, font=load_font(font_px))
        indent, percent = round(2.4 * font_px), _percent(region)
        room = width_px - indent - round(draw.textlength(percent, font=load_font(font_px)))
        end = indent + _write(draw, region.name, (indent, y), room, font_px, colour=INK)
        draw.text((end, y), percent, fill=MUTED, font=load_font(font_px))
        if region.is_right is False:
            y += line
            text = f"true name: {region.true_name}"
            _write(draw, text, (indent, y), width_px - indent, font_px, colour=MUTED)
    return column


def _write(
    draw: ImageDraw.ImageDraw,
    text: str,
    position: tuple[int, int],
    room_px: int,
    font_px: int,
    *,
    colour: str,
) -> float:
    """Write a line, shortened to fit, and return its width in pixels."""
    font = load_font(font_px)
    shown = fit_text(text, font, room_px)
    draw.text(position, shown, fill=colour, font=font)
    return draw.textlength(shown, font=font)


def _percent(region: NamedRegion) -> str:
    return "" if region.score is None else f" {100 * region.score:.0f}%"
