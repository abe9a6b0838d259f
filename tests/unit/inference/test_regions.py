"""What recognition returns: rows that stay together, and a picture."""

import io
from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from helpers.regions import BOXES, make_regions
from regionspot.core.errors import ShapeError
from regionspot.inference.pictures import outline


def test_names_and_scores_are_those_of_the_best_class() -> None:
    regions = make_regions()
    assert len(regions) == 3
    assert regions.labels == ("sea egg", "lemon", "sea egg")
    assert regions.scores.tolist() == [0.75, 0.5, 1.0]
    assert regions.class_ids.tolist() == [2, 0, 2]
    assert regions.top_labels == (
        ("sea egg", "lemon"),
        ("lemon", "tennis ball"),
        ("sea egg", "tennis ball"),
    )


def test_iterating_yields_the_regions_one_by_one() -> None:
    regions = list(make_regions())
    assert [region.label for region in regions] == ["sea egg", "lemon", "sea egg"]
    assert [region.score for region in regions] == [0.75, 0.5, 1.0]
    assert [region.box_xyxy.tolist() for region in regions] == BOXES
    assert [region.embedding.tolist() for region in regions][1] == [4, 5, 6, 7]
    assert [None if region.mask is None else region.mask.sum() for region in regions] == [300, 0, 0]
    assert [region.mask for region in make_regions(kept_masks=None)] == [None] * 3


@pytest.mark.parametrize(
    ("selector", "rows"),
    [
        (1, [1]),
        (-1, [2]),
        (slice(None, None, -1), [2, 1, 0]),
        (slice(5, None), []),
        (np.array([True, False, True]), [0, 2]),
        (np.array([2, 2, 0]), [2, 2, 0]),
    ],
    ids=["index", "from the end", "slice", "empty slice", "mask", "indices"],
)
def test_selecting_keeps_rows_together(
    selector: int | slice | NDArray[np.bool_] | NDArray[np.intp], rows: list[int]
) -> None:
    regions = make_regions()
    chosen = regions[selector]
    assert chosen.boxes_xyxy.tolist() == [BOXES[row] for row in rows]
    assert chosen.labels == tuple(regions.labels[row] for row in rows)
    assert chosen.top_scores.tolist() == [regions.top_scores[row].tolist() for row in rows]
    assert chosen.embeddings[:, 0].tolist() == [4 * row for row in rows]
    assert chosen.masks is not None
    assert chosen.masks.sum(axis=(1, 2)).tolist() == [[300, 0, 0][row] for row in rows]
    assert make_regions(kept_masks=None)[selector].masks is None


def test_a_region_that_is_not_there_is_an_index_error() -> None:
    with pytest.raises(IndexError):
        make_regions()[3]


def test_arrays_of_different_lengths_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"one row each in every array.*\(2, 4\)"):
        make_regions(embeddings=np.zeros((2, 4), np.float32))


def test_box_scores_stay_with_their_regions_and_need_one_row_each() -> None:
    box_scores = np.array([0.9, 0.5, 0.7], np.float32)
    chosen = make_regions(box_scores=box_scores)[np.array([2, 0])]
    assert chosen.box_scores is not None
    assert chosen.box_scores.tolist() == box_scores[[2, 0]].tolist()
    assert make_regions()[:1].box_scores is None
    with pytest.raises(ShapeError, match=r"one row each in every array.*\(2,\)"):
        make_regions(box_scores=box_scores[:2])


def test_printing_shows_what_is_where() -> None:
    assert repr(make_regions()) == (
        "Regions(3 regions of a 80x50 image, 3 names)\n"
        "  sea egg 75% at (10, 20, 60, 45)\n"
        "  lemon 50% at (0, 0, 5, 5)\n"
        "  sea egg 100% at (30, 6, 80, 50)"
    )


@pytest.mark.parametrize(
    ("size_hw", "factor"), [((50, 80), 10), ((480, 500), 1), ((481, 600), 1), ((479, 490), 2)]
)
def test_a_picture_has_the_images_size_times_a_whole_number(
    size_hw: tuple[int, int], factor: int
) -> None:
    regions = make_regions(image=np.zeros((*size_hw, 3), np.uint8), kept_masks=None)
    picture = regions.plot()
    assert picture.size == (size_hw[1] * factor, size_hw[0] * factor)
    assert picture.mode == "RGB"


def test_a_picture_shows_frames_and_outlines_and_leaves_the_colours_alone() -> None:
    regions = make_regions()
    picture = np.asarray(regions.plot())  # 10 times as large
    red = [230, 25, 75]
    assert picture[440, 200].tolist() == [100, 100, 100]
    assert picture[449, 200].tolist() == red  # the lower edge of the first box
    assert picture[300, 400].tolist() == [100, 100, 100]  # inside the first mask: no tint
    assert picture[250, 400].tolist() == picture[349, 400].tolist() == red  # its outline
    assert picture[300, 200].tolist() == picture[300, 499].tolist() == red
    assert picture[240, 400].tolist() == picture[350, 400].tolist() == [100, 100, 100]
    assert picture[450, 200].tolist() == [100, 100, 100]  # boxes are half-open
    assert picture[499, 500].tolist() == [0, 130, 200]  # the third box ends with the image
    assert (regions.image == 100).all()


def test_pictures_without_masks_have_no_outline() -> None:
    picture = np.asarray(make_regions(kept_masks=None).plot())
    assert picture[250, 400].tolist() == [100, 100, 100]


def test_captions_are_beside_their_object_where_there_is_room() -> None:
    boxes = np.array([[30, 25, 60, 45]], np.float32)
    regions = make_regions(kept_masks=None)[:1]
    picture = np.asarray(replace(regions, boxes_xyxy=boxes).plot())
    inside = picture[252:448, 302:598]
    assert (inside == 100).all()
    assert (picture[:250] != 100).any()  # the caption is above the box


@pytest.mark.parametrize("width_px", [1, 2, 5])
def test_an_outline_is_what_erosion_takes_away(width_px: int) -> None:
    mask = np.random.default_rng(2).random((40, 50)) < 0.97
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    eroded = cv2.erode(
        mask.astype(np.uint8),
        cross,
        iterations=width_px,
        borderType=cv2.BORDER_CONSTANT,
        borderValue=0,
    )
    np.testing.assert_array_equal(outline(mask, width_px), mask & (eroded == 0))


def test_a_notebook_shows_the_picture() -> None:
    regions = make_regions()
    with Image.open(io.BytesIO(regions._repr_png_())) as shown:
        np.testing.assert_array_equal(np.asarray(shown), np.asarray(regions.plot()))
