"""Coordinates change format and frame in one place, checked against the reference libraries."""

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from segment_anything.utils.transforms import ResizeLongestSide

from regionspot.core.errors import ShapeError
from regionspot.core.geometry import (
    as_boxes,
    box_area,
    clip_boxes_xyxy,
    resized_size_hw,
    to_sam_frame,
    xywh_to_xyxy,
    xyxy_to_xywh,
)

SIDES = st.integers(min_value=1, max_value=5000)


def _random_boxes(num: int, seed: int) -> np.ndarray:
    corners = np.random.default_rng(seed).uniform(0, 600, (num, 2, 2)).astype(np.float32)
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


@pytest.mark.parametrize(
    ("xywh", "xyxy"),
    [
        ([], []),
        ([[0, 0, 10, 20]], [[0, 0, 10, 20]]),
        ([[5, 6, 10, 20]], [[5, 6, 15, 26]]),
        ([[1.5, 2.5, 0, 0]], [[1.5, 2.5, 1.5, 2.5]]),
    ],
)
def test_box_formats_convert_both_ways(xywh: list[list[float]], xyxy: list[list[float]]) -> None:
    np.testing.assert_array_equal(xywh_to_xyxy(np.array(xywh)), np.array(xyxy).reshape(-1, 4))
    np.testing.assert_array_equal(xyxy_to_xywh(np.array(xyxy)), np.array(xywh).reshape(-1, 4))


def test_boxes_are_clipped_to_the_image() -> None:
    clipped = clip_boxes_xyxy(np.array([[-5, -6, 700, 500], [10, 20, 30, 40]]), (480, 640))
    np.testing.assert_array_equal(clipped, [[0, 0, 640, 480], [10, 20, 30, 40]])


def test_areas_equal_torchvisions() -> None:
    boxes = _random_boxes(7, seed=0)
    theirs = torchvision.ops.box_area(torch.from_numpy(boxes)).numpy()
    np.testing.assert_allclose(box_area(boxes), theirs, rtol=1e-6)


def test_an_inverted_box_has_no_area() -> None:
    np.testing.assert_array_equal(box_area(np.array([[5, 5, 5, 5], [9, 9, 2, 2]])), [0, 0])


@given(height=SIDES, width=SIDES, long_side=st.sampled_from([64, 128, 1024]))
def test_sizes_round_as_in_segment_anything(height: int, width: int, long_side: int) -> None:
    theirs = ResizeLongestSide.get_preprocess_shape(height, width, long_side)
    assert resized_size_hw((height, width), long_side) == theirs


@given(height=st.integers(8, 3000), width=st.integers(8, 3000), seed=st.integers(0, 99))
def test_boxes_move_to_sams_frame_as_in_segment_anything(
    height: int, width: int, seed: int
) -> None:
    boxes = _random_boxes(3, seed)
    theirs = ResizeLongestSide(1024).apply_boxes(boxes, (height, width))
    np.testing.assert_allclose(to_sam_frame(boxes, (height, width), 1024), theirs, rtol=1e-6)


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([1, 2, 3, 4], r"has shape \(4,\); wanted \(R, 4\)"),
        ([[1, 2, 3]], r"has shape \(1, 3\)"),
        ([[1, 2, 3, 4], [1, 2, float("nan"), 4]], r"not finite, first in row 1: \(1, 2, nan, 4"),
    ],
)
def test_arrays_that_are_no_boxes_are_refused(boxes: list[object], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        as_boxes(boxes)
