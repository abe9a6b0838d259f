import json
from pathlib import Path
from typing import Any

import pytest

from helpers.samples import GENUINE, OURS, sample_files
from regionspot.core.errors import AnnotationError, MissingFileError
from regionspot.evaluation import LvisGroundTruth


def dataset() -> dict[str, Any]:
    return {
        "images": [
            {"id": 4, "neg_category_ids": [2], "not_exhaustive_category_ids": []},
            {"id": 3, "neg_category_ids": [], "not_exhaustive_category_ids": [1]},
        ],
        "annotations": [
            {"id": 1, "image_id": 3, "category_id": 1, "bbox": [0, 0, 2, 2], "area": 4}
        ],
        "categories": [
            {"id": 2, "name": "b", "frequency": "f"},
            {"id": 1, "name": "a", "frequency": "r"},
        ],
    }


def read(tmp_path: Path, content: object) -> LvisGroundTruth:
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(content))
    return LvisGroundTruth.read(path)


def test_categories_come_in_order_of_ids(tmp_path: Path) -> None:
    truth = read(tmp_path, dataset())
    assert [(item.id, item.name, item.frequency) for item in truth.categories] == [
        (1, "a", "r"),
        (2, "b", "f"),
    ]
    assert truth.image_ids == (4, 3)
    assert truth.num_annotations == 1


def test_a_subset_keeps_every_category_and_the_identity_of_the_file(tmp_path: Path) -> None:
    truth = read(tmp_path, dataset())
    subset = truth.subset([4])
    assert (subset.image_ids, subset.num_annotations) == ((4,), 0)
    assert subset.categories == truth.categories
    assert subset.sha256 == truth.sha256
    assert truth.image_ids == (4, 3)


@pytest.mark.parametrize(
    ("path", "num_categories", "num_images"),
    sample_files(
        (OURS / "lvis/ground_truth.json", 9, 8),
        (GENUINE / "lvis/lvis_v0.5_val_100.json", 1230, 100),
    ),
)
def test_a_whole_lvis_file_is_read(path: Path, num_categories: int, num_images: int) -> None:
    truth = LvisGroundTruth.read(path)
    assert (len(truth.categories), len(truth.image_ids)) == (num_categories, num_images)


@pytest.mark.parametrize(
    "path",
    sample_files((OURS / "coco/instances.json",), (GENUINE / "coco/instances_val2014_100.json",)),
)
def test_a_whole_coco_file_is_refused_with_what_to_do(path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"lacks \['frequency'\].*not LVIS.*torchmetrics"):
        LvisGroundTruth.read(path)


def test_a_missing_file_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"lvis_v1_val\.json from"):
        LvisGroundTruth.read(tmp_path / "nothing.json")


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.json"
    path.write_text(json.dumps(dataset())[:-9])
    with pytest.raises(AnnotationError, match="cut off"):
        LvisGroundTruth.read(path)


def without_negatives(content: dict[str, Any]) -> None:
    del content["images"][1]["neg_category_ids"]


def without_categories(content: dict[str, Any]) -> None:
    del content["categories"]


def with_strange_frequency(content: dict[str, Any]) -> None:
    content["categories"][0]["frequency"] = "often"


def with_an_image_twice(content: dict[str, Any]) -> None:
    content["images"].append(content["images"][0])


def with_a_lost_annotation(content: dict[str, Any]) -> None:
    content["annotations"][0]["image_id"] = 99


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_negatives, r"images\[1\] lacks \['neg_category_ids'\]"),
        (without_categories, "no list 'categories'"),
        (with_strange_frequency, "frequency 'often'"),
        (with_an_image_twice, "1 ids occur twice"),
        (with_a_lost_annotation, "points to image 99"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, spoil: Any, message: str) -> None:
    content = dataset()
    spoil(content)
    with pytest.raises(AnnotationError, match=message):
        read(tmp_path, content)


def test_a_list_is_not_an_annotation_file(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="holds a list"):
        read(tmp_path, [])
