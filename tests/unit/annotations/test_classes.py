"""Classes that nobody annotated are named, and may be left out; literal tables."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from regionspot.annotations import AnnotatedImages, ReadOptions, Reason, read_annotations
from regionspot.core.errors import AnnotationError, ConfigError

Read = Callable[..., AnnotatedImages]
CATEGORIES = ["animals", "cat", "dog", "bird"]  # ids 0 to 3; the first is Roboflow's parent class


@pytest.fixture
def read(tmp_path: Path) -> Read:
    boxes = {1: [[1, 2, 10, 10], [30, 20, 9, 9]], 3: [[5, 5, 20, 30]]}
    content = {
        "images": [{"id": 7, "file_name": "a.jpg", "width": 96, "height": 64}],
        "annotations": [
            {"image_id": 7, "category_id": number, "bbox": box}
            for number, of_class in boxes.items()
            for box in of_class
        ],
        "categories": [{"id": n, "name": name} for n, name in enumerate(CATEGORIES)],
    }
    path = tmp_path / "_annotations.coco.json"
    path.write_text(json.dumps(content))

    def read_it(**options: Any) -> AnnotatedImages:
        return read_annotations("coco", path, tmp_path, options=ReadOptions(**options))

    return read_it


def test_classes_without_a_region_are_named_in_the_last_lines(read: Read) -> None:
    data = read()
    assert list(data.vocabulary) == CATEGORIES
    assert data.report.lines()[-1] == (
        "2 of 4 classes have no region: 'animals', 'dog'. They compete with the others all the"
        " same; to leave them out, give --annotations.classes annotated"
    )


def test_classes_without_a_region_are_left_out_if_asked_for(read: Read) -> None:
    data = read(classes="annotated")
    assert (list(data.vocabulary), data.category_ids) == (["cat", "bird"], (1, 3))
    assert data.records[0].labels.tolist() == [0, 0, 1]
    assert data.report.num_dropped == 0
    assert data.report.notes == ()


def test_a_list_of_classes_is_all_there_is(read: Read) -> None:
    data = read(classes=("dog", "bird"))
    assert (list(data.vocabulary), data.category_ids) == (["dog", "bird"], (2, 3))
    assert data.records[0].labels.tolist() == [1]
    assert data.records[0].boxes_xyxy.tolist() == [[5, 5, 25, 35]]
    dropped = [(entry.reason, entry.count, entry.first) for entry in data.report.dropped]
    assert dropped == [(Reason.OTHER_CLASS, 2, (0, 1))]


def test_the_annotations_are_those_of_the_file_whichever_classes_are_kept(read: Read) -> None:
    kept = [None, "annotated", ("cat",), ("cat", "bird")]
    assert len({read(classes=classes).annotation_sha256 for classes in kept}) == 1


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("cat", "horse"), r"has 'horse', which .* does not list; .* 'animals', 'cat', 'dog'"),
        ((), r"--annotations\.classes has no name"),
    ],
)
def test_classes_that_are_not_there_are_refused(
    read: Read, classes: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        read(classes=classes)


def test_a_file_without_any_region_has_no_annotated_class(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("image,x1,y1,x2,y2,label\na.jpg,,,,,\n")
    (tmp_path / "classes.txt").write_text("cat\n")
    options = ReadOptions(classes="annotated", classes_path=tmp_path / "classes.txt")
    with pytest.raises(ConfigError, match=r"no class of own has a region"):
        read_annotations("csv", tmp_path / "own.csv", tmp_path, options=options)


def test_all_crowds_are_told_as_what_they_most_likely_are(tmp_path: Path) -> None:
    """CVAT marks every mask that was drawn with a brush ``iscrowd: 1``."""
    content = {
        "images": [{"id": 7, "file_name": "a.jpg", "width": 96, "height": 64}],
        "annotations": [
            {"image_id": 7, "category_id": 1, "iscrowd": 1, "bbox": [n, n, 9, 9]} for n in range(3)
        ],
        "categories": [{"id": 1, "name": "cat"}],
    }
    path = tmp_path / "instances_default.json"
    path.write_text(json.dumps(content))
    report = read_annotations("coco", path, tmp_path).report
    assert report.num_regions == report.num_crowds == 3
    assert "all 3 annotations are crowds (iscrowd 1). Most likely" in report.lines()[-1]
    with pytest.raises(AnnotationError, match=r"CVAT.*Leave --annotations\.crowds at keep"):
        read_annotations("coco", path, tmp_path, options=ReadOptions(crowds="drop"))
    content["annotations"][0]["iscrowd"] = 0
    path.write_text(json.dumps(content))
    report = read_annotations("coco", path, tmp_path, options=ReadOptions(crowds="drop")).report
    assert (report.num_regions, report.notes) == (1, ())
