import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from regionspot.core.errors import ShapeError
from regionspot.viz import NamedPhoto, NamedRegion, draw_contact_sheet
from regionspot.viz.style import fit_text, load_font

BOX = (20.0, 20.0, 60.0, 60.0)
RIGHT = NamedRegion(box_xyxy=BOX, name="cat", true_name="cat", score=0.5)
WRONG = NamedRegion(box_xyxy=BOX, name="cat", true_name="caf\u00e9", score=0.256)
UNKNOWN = NamedRegion(box_xyxy=BOX, name="cat")


def photo(level: int, *regions: NamedRegion, shape: tuple[int, int] = (80, 80)) -> NamedPhoto:
    image = np.full((*shape, 3), level, np.uint8)
    return NamedPhoto(title=f"Photo {level}", image=image, regions=regions)


def pixels_of(data: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.format == "JPEG"
        return np.asarray(picture.convert("RGB"))


def test_the_comment_of_the_file_is_the_sheet_in_words() -> None:
    data = draw_contact_sheet([photo(90, RIGHT, WRONG), photo(10, UNKNOWN)])
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.info["comment"].decode() == (
            "Photo 90\n1\u2713 cat 50%\n2\u2717 cat 26% (true name: caf\u00e9)\nPhoto 10\n1 cat"
        )


def test_photos_are_side_by_side_whole_and_in_order() -> None:
    # Columns of (640 - 2 * 16 - 28) / 2 = 290 px; the second photo is half as high as it is wide.
    sheet = pixels_of(draw_contact_sheet([photo(90), photo(10, shape=(40, 80))], width_px=640))
    assert sheet.shape[1] == 640
    for x, y, level in [(161, 161, 90), (20, 20, 90), (479, 161, 10), (340, 95, 10)]:
        assert abs(int(sheet[y, x, 0]) - level) <= 3, (x, y)
    assert sheet[30, 479].min() > 235  # above the low photo
    assert sheet[161, 320].min() > 250  # between the columns


def test_rows_have_as_many_photos_as_wanted_from_left_to_right() -> None:
    photos = [photo(level) for level in (90, 10, 200)]
    sheet = pixels_of(draw_contact_sheet(photos, width_px=640, max_columns=2))
    row = pixels_of(draw_contact_sheet(photos[:2], width_px=640))
    second = row.shape[0]  # where the second row begins, whose photo has a side of 290 px
    for x, y, level in [(161, 161, 90), (479, 161, 10), (161, second + 145, 200)]:
        assert abs(int(sheet[y, x, 0]) - level) <= 3, (x, y)
    assert sheet[second + 145, 479].min() > 250


def test_names_lie_below_the_photo_and_not_on_it() -> None:
    few = pixels_of(draw_contact_sheet([photo(90, RIGHT)], width_px=640))
    many = pixels_of(draw_contact_sheet([photo(90, *[RIGHT] * 9)], width_px=640))
    assert many.shape[0] > few.shape[0]
    side = 640 - 2 * 16
    inside = few[16 + 2 : 16 + side - 2, 18 : 16 + side - 2].astype(int)
    changed = np.abs(inside - 90).max(axis=2) > 12
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    scale = side / 80
    # The box, and its number beside it, which takes less than 6 % of the side.
    assert rows[0] >= 20 * scale - 0.06 * side
    assert rows[-1] <= 60 * scale + 0.02 * side
    assert columns[0] >= 20 * scale - 0.02 * side
    assert columns[-1] <= 60 * scale + 0.02 * side


def test_long_names_are_shortened_to_fit() -> None:
    font = load_font(20)
    assert fit_text("cat", font, 500) == "cat"
    shortened = fit_text("w" * 200, font, 300)
    assert shortened.endswith("w...")
    assert font.getlength(shortened) <= 300 < font.getlength(f"w{shortened}")
    assert fit_text("www", font, 1) == "w..."


def test_a_sheet_of_no_photos_is_refused() -> None:
    with pytest.raises(ShapeError, match="no photos"):
        draw_contact_sheet([])
