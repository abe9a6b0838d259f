"""What recognition returns: rows that stay together, a picture, and supervision's detections."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from regionspot.core.errors import ShapeError
from regionspot.core.vocabulary import Vocabulary
from regionspot.inference import Regions

BOXES = [[10.0, 20.0, 60.0, 45.0], [0.0, 0.0, 5.0, 5.0], [30.0, 5.5, 80.0, 50.0]]


def make_regions(**changes: Any) -> Regions:
    """Three regions of a grey 50 x 80 picture."""
    masks = np.zeros((3, 50, 80), np.bool_)
    masks[0, 25:35, 20:50] = True
    fields: dict[str, Any] = {
        "image": np.full((50, 80, 3), 100, np.uint8),
        "vocabulary": Vocabulary(("lemon", "tennis ball", "sea egg")),
        "boxes_xyxy": np.array(BOXES, np.float32),
        "top_class_ids": np.array([[2, 0], [0, 1], [2, 1]]),
        "top_scores": np.array([[0.75, 0.25], [0.5, 0.375], [1, 0]], np.float32),
        "top_confidences": np.array([[0.5, 0.125], [0.25, 0.25], [1, 0]], np.float32),
        "embeddings": np.arange(12, dtype=np.float32).reshape(3, 4),
        "kept_masks": masks,
    }
    return Regions(**(fields | changes))


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


def test_a_picture_shows_frames_and_tinted_masks_and_leaves_the_image_alone() -> None:
    regions = make_regions()
    picture = np.asarray(regions.plot())  # 10 times as large
    assert picture[440, 200].tolist() == [100, 100, 100]
    assert picture[449, 200].tolist() == [230, 25, 75]  # the lower edge of the first box
    assert picture[300, 400].tolist() == [152, 70, 90]  # 0.6 of grey and 0.4 of the frame's red
    assert picture[300, 100].tolist() == [230, 25, 75]
    assert picture[450, 200].tolist() == [100, 100, 100]  # boxes are half-open
    assert picture[499, 500].tolist() == [0, 130, 200]  # the third box ends with the image
    assert (regions.image == 100).all()


def test_pictures_without_masks_have_no_tint() -> None:
    picture = np.asarray(make_regions(kept_masks=None).plot())
    assert picture[300, 400].tolist() == [100, 100, 100]


def test_supervision_gets_boxes_masks_scores_and_names() -> None:
    sv = pytest.importorskip("supervision", reason="comes with the extra demo")
    regions = make_regions()
    detections = regions.to_supervision()
    assert isinstance(detections, sv.Detections)
    np.testing.assert_array_equal(detections.xyxy, np.array(BOXES, np.float32))
    np.testing.assert_array_equal(detections.mask, regions.masks)
    assert detections.confidence is not None
    assert detections.confidence.tolist() == [0.75, 0.5, 1.0]
    assert detections.class_id is not None
    assert detections.class_id.tolist() == [2, 0, 2]
    assert detections["class_name"].tolist() == ["sea egg", "lemon", "sea egg"]
    assert detections.area.tolist() == [300, 0, 0]
    best = detections[detections.confidence > 0.6]
    assert best["class_name"].tolist() == ["sea egg", "sea egg"]


def test_supervision_gets_no_masks_and_no_regions_where_there_are_none() -> None:
    sv = pytest.importorskip("supervision", reason="comes with the extra demo")
    none = make_regions(kept_masks=None)[:0].to_supervision()
    assert len(none) == 0
    assert none.mask is None
    merged = sv.Detections.merge([none, make_regions(kept_masks=None).to_supervision()])
    assert len(merged) == 3


def test_changing_detections_leaves_the_regions_alone() -> None:
    pytest.importorskip("supervision", reason="comes with the extra demo")
    regions = make_regions()
    detections = regions.to_supervision()
    detections.xyxy += 5
    assert regions.boxes_xyxy.tolist() == BOXES
