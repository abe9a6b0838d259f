"""Boxes in all formats, against torchvision's conversions."""

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
        ([0.1, 0.2, 0.5, 0.6], "xywh", ShapeError, "look normalised.*box_format='normalized'"),
        ([10, 10, 0, 20], "xywh", ShapeError, "no area; wanted a width and a height above 0"),
        ([50, 50, -20, 20], "cxcywh", ShapeError, "box_format='cxcywh'"),
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
