"""Masks and points of annotations; the oracle for masks is pycocotools' own annToMask."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from helpers.samples import GENUINE, OURS, sample_files
from regionspot.annotations import ReadOptions, Reason, decode_mask, read_annotations
from regionspot.annotations.region_prompts import (
    decode_points,
    points_text,
    segmentation_fault,
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
        {"size": [3, 4], "counts": [2, 4, 7]},  # one pixel more than 3 x 4
        {"size": [3, 4], "counts": [2, 4, 5]},  # one less: pycocotools returns what lies there
        {"size": [3, 4], "counts": [2, -4, 14]},
        {"size": [3, 4], "counts": [2.5, 4, 5.5]},
        {"size": [3, 4], "counts": []},
        {"size": [-3, -4], "counts": [2, 4, 6]},
        {"size": [0, 4], "counts": [0]},
        {"size": [2**80, 1], "counts": [2**80]},
        {"size": [3, 4], "counts": "245"},
        {"size": [3, 4], "counts": "24V"},  # ends within a number
        {"size": [3, 4], "counts": "24 6"},
        {"size": [3, 4], "counts": "24\u00e9"},
        {"size": [3, 4], "counts": "P" * 90 + "0"},
        {"size": [3, 4], "counts": ""},
        "polygon",
        [*TRIANGLE, [1, 2, 3, 4, 5, 6, 7]],  # half a corner
        [[1, 1, 5, 1, 1e300, 5]],
        [[1, 1, 5, 1, -1e9, 5]],
        [[0, 0, 60_000, 60_000] * 100],  # a line of 12 million pixels
        [[1, 1, 5, None, 1, 5]],  # what NaN becomes
    ],
)
def test_what_is_no_segmentation_gives_no_text(value: object) -> None:
    assert segmentation_text(encoded(value)) == ""


@given(data=st.data(), height=st.integers(1, 9), width=st.integers(1, 9))
def test_run_lengths_are_read_as_pycocotools_writes_them(
    data: st.DataObject, height: int, width: int
) -> None:
    pixels = data.draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    mask = np.array(pixels, np.uint8).reshape(height, width)
    compressed = coco_mask.encode(np.asfortranarray(mask))
    column_by_column = mask.T.ravel()
    ends = np.flatnonzero(np.diff(column_by_column)) + 1
    counts = np.diff([0, *ends, mask.size]).tolist()
    counts = [0, *counts] if column_by_column[0] else counts
    for value in (counts, compressed["counts"].decode()):
        text = segmentation_text(encoded({"size": [height, width], "counts": value}))
        found = decode_mask(text, (height, width))
        assert (found is None) == (not mask.any())
        if found is not None:
            np.testing.assert_array_equal(found, mask.astype(bool))


@given(text=st.text(st.characters(min_codepoint=32, max_codepoint=130), max_size=12))
def test_compressed_counts_are_sound_exactly_if_they_add_up_to_the_image(text: str) -> None:
    """The oracle is pycocotools' own way back: sound counts are those that it writes, too."""
    found = segmentation_text(encoded({"size": [3, 4], "counts": text}))
    if found:
        mask = decode_mask(found, (3, 4))
        theirs = coco_mask.decode({"size": [3, 4], "counts": text})
        assert (mask is None) == (not theirs.any())
        if mask is not None:
            np.testing.assert_array_equal(mask, theirs.astype(bool))


def test_masks_that_do_not_fit_their_image_are_dropped_and_counted(tmp_path: Path) -> None:
    sound = {"size": [64, 96], "counts": [522, 30, 5592]}
    segmentations = [
        sound,
        [[8, 10, 38, 10, 38, 40, 8, 40]],
        sound | {"counts": [522, 30, 6000]},
        sound | {"counts": [522, 30]},
        sound | {"counts": [522, -30, 5652]},
        {"size": [96, 64], "counts": [522, 30, 5592]},  # of another image
        [[8, 10, float("nan"), 10, 38, 40]],
        None,
    ]
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 96, "height": 64}],
        "annotations": [
            {"image_id": 1, "category_id": 1, "bbox": [8 + n, 10, 30, 30], "segmentation": value}
            for n, value in enumerate(segmentations)
        ],
        "categories": [{"id": 1, "name": "red box"}],
    }
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    data = read_annotations("coco", path, tmp_path, options=ReadOptions(prompt="mask"))
    assert {entry.reason: (entry.count, entry.first) for entry in data.report.dropped} == {
        Reason.NO_MASK: (1, (7,)),
        Reason.BAD_MASK: (5, (2, 3, 4)),
    }
    prompts = data.records[0].prompts
    assert prompts is not None
    masks = [decode_mask(text, (64, 96)) for text in prompts]
    assert [None if mask is None else int(mask.sum()) for mask in masks] == [30, 900]


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


NUMBERS = st.integers(-5, 2**70) | st.integers(0, 12) | st.floats()
RUNS = {
    "size": st.just([3, 4]) | st.lists(NUMBERS, max_size=3),
    "counts": st.lists(NUMBERS, max_size=5) | st.text(max_size=8) | st.none(),
}
SEGMENTATIONS = st.one_of(
    st.fixed_dictionaries(RUNS),
    st.lists(st.lists(NUMBERS, max_size=9), max_size=3),
    st.recursive(
        st.none() | st.booleans() | NUMBERS | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
        max_leaves=8,
    ),
)


@pytest.mark.slow
@settings(max_examples=2000)
@given(value=SEGMENTATIONS)
def test_any_segmentation_is_a_mask_of_the_image_or_none(value: object) -> None:
    text = segmentation_text(encoded(value))
    assert (segmentation_fault(encoded(value), text) is None) == bool(text)
    if text:
        for size_hw in ((3, 4), (4, 3)):
            first, again = decode_mask(text, size_hw), decode_mask(text, size_hw)
            assert (first is None) == (again is None)
            if first is not None and again is not None:
                assert first.shape == size_hw
                np.testing.assert_array_equal(first, again)
