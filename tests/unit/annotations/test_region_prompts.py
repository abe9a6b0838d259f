"""Masks and points of annotations; the oracle for masks is pycocotools' own annToMask."""

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from helpers.samples import GENUINE, OURS, sample_files
from regionspot.annotations.region_prompts import (
    decode_mask,
    decode_points,
    points_text,
    segmentation_text,
)

TRIANGLE = [[1.0, 1.0, 5.0, 1.0, 1.0, 5.0]]
RLE = {"size": [3, 4], "counts": [2, 4, 6]}  # column by column: 2 outside, 4 inside, 6 outside


def encoded(value: object) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    ("path", "wanted_kinds"),
    sample_files(
        (OURS / "coco/instances.json", {list, dict}),
        (OURS / "photos/000000031001.json", {dict}),  # run lengths packed into text
        (GENUINE / "coco/instances_val2014_100.json", {list, dict}),
    ),
)
def test_masks_are_those_that_pycocotools_draws(path: Path, wanted_kinds: set[type]) -> None:
    theirs = COCO(str(path))
    kinds = set()
    for annotation in theirs.anns.values():
        image = theirs.imgs[annotation["image_id"]]
        text = segmentation_text(encoded(annotation["segmentation"]))
        mask = decode_mask(text, (image["height"], image["width"]))
        assert mask is not None
        np.testing.assert_array_equal(mask, theirs.annToMask(annotation).astype(bool))
        kinds.add(type(annotation["segmentation"]))
    assert kinds == wanted_kinds


def test_a_run_length_encoding_counts_down_the_columns() -> None:
    mask = decode_mask(segmentation_text(encoded(RLE)), (3, 4))
    assert mask is not None
    assert mask.astype(int).tolist() == [[0, 1, 0, 0], [0, 1, 0, 0], [1, 1, 0, 0]]


def test_a_run_length_encoding_of_another_image_size_is_no_mask() -> None:
    assert decode_mask(segmentation_text(encoded(RLE)), (4, 3)) is None


def test_a_mask_without_a_pixel_is_no_mask() -> None:
    outside = [[50.0, 50.0, 60.0, 50.0, 50.0, 60.0]]
    assert decode_mask(segmentation_text(encoded(outside)), (8, 8)) is None


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        [[]],
        [[1, 2, 3, 4]],  # pycocotools would take it for a box
        [[1, 2, 3, 4, 5, 6, 7]],
        [1, 2, 3, 4, 5, 6],
        [["a", "b"]],
        {"counts": [1, 2]},
        {"size": [3], "counts": [1, 2]},
        "polygon",
    ],
)
def test_what_is_no_segmentation_gives_no_text(value: object) -> None:
    assert segmentation_text(encoded(value)) == ""


def test_polygons_without_an_area_are_left_out_beside_sound_ones() -> None:
    text = segmentation_text(encoded([[1, 2, 3, 4], *TRIANGLE]))
    assert json.loads(text) == TRIANGLE


def test_points_are_all_inside_unless_labelled() -> None:
    pairs = encoded([[1, 2], [3.5, 4]])
    assert json.loads(points_text(pairs, b"null", b"null")) == [[1.0, 2.0, 1], [3.5, 4.0, 1]]
    assert json.loads(points_text(pairs, b"[0, 1]", b"null")) == [[1.0, 2.0, 0], [3.5, 4.0, 1]]


def test_keypoints_that_are_annotated_are_points_in_the_region() -> None:
    keypoints = encoded([10, 20, 2, 0, 0, 0, 30, 40, 1])  # visible, not annotated, hidden
    text = points_text(b"null", b"null", keypoints)
    assert json.loads(text) == [[10.0, 20.0, 1], [30.0, 40.0, 1]]


@pytest.mark.parametrize(
    ("point_coords", "point_labels", "keypoints"),
    [
        (None, None, None),
        ([], None, None),
        ([[1, 2]], [0], None),  # only where the region is not
        ([[1, 2]], [2], None),
        ([[1, 2]], [1, 1], None),
        ([[1, 2, 3]], None, None),
        ([[1, None]], None, None),
        (None, None, [1, 2]),
        (None, None, [0, 0, 0]),
        ("here", None, None),
    ],
)
def test_what_is_no_point_in_the_region_gives_no_text(
    point_coords: object, point_labels: object, keypoints: object
) -> None:
    values = (encoded(value) for value in (point_coords, point_labels, keypoints))
    assert points_text(*values) == ""


def test_points_come_back_as_arrays_if_they_lie_in_the_image() -> None:
    text = points_text(encoded([[0, 0], [4, 3]]), b"[1, 0]", b"null")
    found = decode_points(text, (3, 4))
    assert found is not None
    points_xy, labels = found
    assert (str(points_xy.dtype), str(labels.dtype)) == ("float32", "int64")
    assert points_xy.tolist() == [[0, 0], [4, 3]]
    assert labels.tolist() == [1, 0]
    assert decode_points(text, (3, 3)) is None
