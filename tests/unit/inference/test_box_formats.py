"""Boxes in all formats, against torchvision's conversions."""

import re
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchvision.ops import box_convert

from regionspot.core.errors import ConfigError, ShapeError
from regionspot.inference import BoxFormat, RegionSpot

Pixels = NDArray[np.uint8]


@pytest.mark.parametrize("box_format", ["xyxy", "xywh", "cxcywh", "normalized"])
def test_boxes_of_all_formats_are_the_same_regions(
    model: RegionSpot, pixels: Pixels, boxes: NDArray[np.float32], box_format: BoxFormat
) -> None:
    corners = torch.from_numpy(boxes)
    if box_format == "normalized":
        given = corners / torch.tensor([140, 96, 140, 96])
    else:
        given = box_convert(corners, "xyxy", box_format)
    found = model.recognize(pixels, given, box_format=box_format)
    np.testing.assert_allclose(found.boxes_xyxy, boxes, rtol=1e-6)
    (of_several,) = model.recognize([pixels], [given], box_format=box_format)
    np.testing.assert_array_equal(of_several.boxes_xyxy, found.boxes_xyxy)


@pytest.mark.parametrize(
    ("box", "box_format", "clipped"),
    [
        ([-10, 10, 60, 40], "xywh", [0, 10, 50, 50]),
        ([135, 40, 20, 20], "cxcywh", [125, 30, 140, 50]),
        ([0.5, 0.5, 1.02, 1.1], "normalized", [70, 48, 140, 96]),
    ],
)
def test_boxes_over_the_edge_are_clipped_in_every_format(
    model: RegionSpot, pixels: Pixels, box: list[float], box_format: BoxFormat, clipped: list[int]
) -> None:
    found = model.recognize(pixels, [box], box_format=box_format)
    assert found.boxes_xyxy.tolist() == [clipped]


@pytest.mark.parametrize(
    ("box", "box_format", "error", "message"),
    [
        ([10, 10, 50, 50], "normalized", ShapeError, "boxes reach 50; wanted fractions"),
        (
            [0.1, 0.2, 0.5, 0.6],
            "xywh",
            ShapeError,
            "look normalised.*multiply x by 140 and y by 96",
        ),
        ([10, 10, 0, 20], "xywh", ShapeError, "no area; wanted .* a width and a height above 0"),
        ([50, 50, -20, 20], "cxcywh", ShapeError, r"no area; wanted \(centre x, centre y, width"),
        ([10, 10, 50, 50], "corners", ConfigError, "wanted one of xyxy, xywh, cxcywh, normalized"),
    ],
)
def test_boxes_of_another_format_are_refused(
    model: RegionSpot,
    pixels: Pixels,
    box: list[float],
    box_format: Any,
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        model.recognize(pixels, [box], box_format=box_format)


@pytest.mark.parametrize(
    ("box", "box_format", "message"),
    [
        ([100, 60, 30, 20], "xyxy", r"\(x, y, width, height\).* \(100, 60, 130, 80\).*'xywh'"),
        ([10, 105, 70, 135], "xyxy", r"\(y1, x1, y2, x2\).* \(105, 10, 135, 70\).*\[1, 0, 3, 2\]"),
        ([10, 90, 20, 70], "xyxy", r"\(x1, x2, y1, y2\).* \(10, 20, 90, 70\).*\[0, 2, 1, 3\]"),
        ([80, 50, 130, 90], "xywh", r"\(x1, y1, x2, y2\).* \(80, 50, 130, 90\).*'xyxy'"),
        (
            [0.5, 0.5, 0.25, 0.25],
            "normalized",
            r"\(x, y, width, height\), its corners are \(0.5, 0.5, 0.75, 0.75\)\.",
        ),
    ],
)
def test_numbers_that_make_a_region_in_another_order_are_told_so(
    model: RegionSpot, pixels: Pixels, box: list[float], box_format: Any, message: str
) -> None:
    given = f"box 0 ({', '.join(f'{value:g}' for value in box)})"
    with pytest.raises(ShapeError, match=f"^{re.escape(given)} .* If it is {message}"):
        model.recognize(pixels, [box], box_format=box_format)


def test_boxes_of_an_image_of_another_size_have_no_other_order(
    model: RegionSpot, pixels: Pixels
) -> None:
    with pytest.raises(ShapeError, match=r"of 140 x 96 pixels .* not of a resized one\.$"):
        model.recognize(pixels, [[200, 100, 260, 180]])
