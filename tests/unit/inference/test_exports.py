"""Named regions in other tools' formats, read back by those tools where they are installed."""

import json
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import supervision as sv
from PIL import Image
from pycocotools.coco import COCO

from helpers.regions import BOXES, make_regions
from regionspot.core.errors import MissingExtraError

LABELS = ["sea egg", "lemon", "sea egg"]


def test_plain_numbers_survive_json() -> None:
    found = json.loads(json.dumps(make_regions().to_dict()))
    assert (found["height"], found["width"]) == (50, 80)
    assert [region["label"] for region in found["regions"]] == LABELS
    assert [region["box_xyxy"] for region in found["regions"]] == BOXES
    assert found["regions"][1] == {
        "label": "lemon",
        "score": 0.5,
        "confidence": 0.25,
        "box_xyxy": BOXES[1],
        "top_labels": ["lemon", "tennis ball"],
        "top_scores": [0.5, 0.375],
    }


def test_unknown_regions_are_exported_by_their_name() -> None:
    regions = make_regions(is_unknown=np.array([False, True, False]))
    assert [region["label"] for region in regions.to_dict()["regions"]][1] == "sea egg"  # the last
    assert regions.to_dict()["regions"][1]["score"] == 0.75
    assert [one["category_id"] for one in regions.to_coco()["annotations"]] == [3, 3, 3]


def test_pycocotools_reads_boxes_masks_and_names(capsys: pytest.CaptureFixture[str]) -> None:
    regions = make_regions()
    coco = COCO()
    coco.dataset = json.loads(json.dumps(regions.to_coco(image_id=7, file_name="a.jpg")))
    coco.createIndex()
    annotations = coco.loadAnns(coco.getAnnIds(imgIds=[7]))
    assert [coco.cats[one["category_id"]]["name"] for one in annotations] == LABELS
    assert [one["score"] for one in annotations] == [0.75, 0.5, 1.0]
    corners = [[x, y, x + w, y + h] for x, y, w, h in (one["bbox"] for one in annotations)]
    assert corners == BOXES
    for row, one in enumerate(annotations):
        np.testing.assert_array_equal(coco.annToMask(one), regions.mask(row))
    assert [one["area"] for one in annotations] == [300, 0, 0]
    assert coco.loadImgs([7])[0] == {"id": 7, "file_name": "a.jpg", "height": 50, "width": 80}
    without = make_regions(kept_masks=None).to_coco()["annotations"]
    assert [one["area"] for one in without] == [1250, 25, 2225]
    assert "segmentation" not in without[0]


def test_pandas_gets_a_row_per_region() -> None:
    table = make_regions().to_dataframe()
    assert isinstance(table, pd.DataFrame)
    assert table["label"].tolist() == LABELS
    assert table[["x1", "y1", "x2", "y2"]].to_numpy().tolist() == BOXES
    assert table.groupby("label")["score"].max().to_dict() == {"lemon": 0.5, "sea egg": 1.0}
    assert table["confidence"].tolist() == [0.5, 0.25, 1.0]
    assert len(make_regions(kept_masks=None)[:0].to_dataframe()) == 0


def test_crops_are_the_boxes_cut_out_in_whole_pixels() -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 80, 3), dtype=np.uint8)
    crops = make_regions(image=image).crops()
    whole = [(10, 20, 60, 45), (0, 0, 5, 5), (30, 5, 80, 50)]
    for crop, box in zip(crops, whole, strict=True):
        np.testing.assert_array_equal(
            np.asarray(crop), np.asarray(Image.fromarray(image).crop(box))
        )


def test_label_studio_gets_percentages_of_the_image() -> None:
    task = json.loads(json.dumps(make_regions().to_label_studio("https://host/a.jpg")))
    assert task["data"] == {"image": "https://host/a.jpg"}
    (prediction,) = task["predictions"]
    assert prediction["score"] == 0.75
    results = prediction["result"]
    assert len({result["id"] for result in results}) == 3
    for result, box, label in zip(results, BOXES, LABELS, strict=True):
        assert (result["from_name"], result["to_name"]) == ("label", "image")
        assert (result["original_width"], result["original_height"]) == (80, 50)
        value = result["value"]
        assert value["rectanglelabels"] == [label]
        corners = [
            value["x"] * 0.8,
            value["y"] * 0.5,
            (value["x"] + value["width"]) * 0.8,
            (value["y"] + value["height"]) * 0.5,
        ]
        np.testing.assert_allclose(corners, box, atol=1e-4)
    assert make_regions()[:0].to_label_studio("a.jpg")["predictions"][0]["result"] == []


def test_fiftyone_gets_relative_boxes_and_masks_cut_to_them(monkeypatch: Any) -> None:
    # `make test-labelling` tests with the package itself, which is too large for these tests.
    fake = SimpleNamespace(Detection=SimpleNamespace, Detections=SimpleNamespace)
    monkeypatch.setitem(sys.modules, "fiftyone", fake)
    detections = make_regions().to_fiftyone().detections
    assert [one.label for one in detections] == LABELS
    assert [one.confidence for one in detections] == [0.75, 0.5, 1.0]
    np.testing.assert_allclose(detections[0].bounding_box, [0.125, 0.4, 0.625, 0.5], rtol=1e-6)
    assert detections[0].mask.shape == (25, 50)
    assert detections[0].mask.sum() == 300
    assert make_regions(kept_masks=None).to_fiftyone().detections[0].mask is None


def test_a_tool_that_is_not_installed_is_named(monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    with pytest.raises(MissingExtraError, match="pip install fiftyone"):
        make_regions().to_fiftyone()


def test_supervision_gets_boxes_masks_scores_and_names() -> None:
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
    none = make_regions(kept_masks=None)[:0].to_supervision()
    assert len(none) == 0
    assert none.mask is None
    merged = sv.Detections.merge([none, make_regions(kept_masks=None).to_supervision()])
    assert len(merged) == 3


def test_changing_detections_leaves_the_regions_alone() -> None:
    regions = make_regions()
    detections = regions.to_supervision()
    detections.xyxy += 5
    assert regions.boxes_xyxy.tolist() == BOXES
