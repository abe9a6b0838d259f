"""Classes that are merged: the oracle is a table by hand."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from regionspot.annotations import (
    AnnotatedImages,
    Reason,
    read_annotations,
    read_proposals,
    with_merged_classes,
    with_proposals,
)

CLASSES = {2: "Dog", 3: "cat", 5: "dog", 8: "Cat", 9: "emu"}
# image, category, box; the third and the fifth repeat the box of an equal class
ENTRIES = [
    (1, 2, [0, 0, 10, 10]),
    (1, 3, [0, 0, 10, 10]),
    (1, 5, [0, 0, 10, 10]),
    (4, 8, [5, 5, 6, 6]),
    (4, 3, [5, 5, 6, 6]),
    (4, 9, [5, 5, 6, 6]),
    (4, 5, [1, 1, 6, 6]),
    (4, 5, [1, 1, 6, 6]),
]


@pytest.fixture
def annotated(tmp_path: Path) -> AnnotatedImages:
    content = {
        "images": [
            {"id": number, "file_name": f"{number}.jpg", "height": 60, "width": 60}
            for number in (1, 3, 4)
        ],
        "annotations": [
            {"id": number, "image_id": image, "category_id": category, "bbox": box, "iscrowd": 0}
            for number, (image, category, box) in enumerate(ENTRIES)
        ],
        "categories": [{"id": number, "name": name} for number, name in CLASSES.items()],
    }
    (tmp_path / "own.json").write_text(json.dumps(content))
    return read_annotations("coco", tmp_path / "own.json", tmp_path)


def test_regions_of_merged_classes_go_to_the_first_of_them(annotated: AnnotatedImages) -> None:
    merged = with_merged_classes(annotated, [(0, 2), (1, 3)])
    assert merged.vocabulary.names == ("Dog", "cat", "emu")
    assert merged.category_ids == (2, 3, 9)
    found = [(one.image_id, one.labels.tolist(), one.boxes_xyxy.tolist()) for one in merged.records]
    assert found == [
        (1, [0, 1], [[0, 0, 10, 10], [0, 0, 10, 10]]),
        (3, [], []),
        (4, [1, 2, 0], [[5, 5, 11, 11], [5, 5, 11, 11], [1, 1, 7, 7]]),
    ]
    report = merged.report
    assert (report.num_annotations, report.num_regions, report.num_dropped) == (8, 5, 3)
    assert report.dropped_for(Reason.DUPLICATE) == 3
    assert report.lines()[-1].startswith("dropped 3 boxes that repeat")
    assert report.lines()[-1].endswith("(annotations[7, ...])")  # the file's own repeat
    assert merged.annotation_sha256 != annotated.annotation_sha256


def test_repeats_that_only_merging_made_have_no_place_in_the_file(
    annotated: AnnotatedImages,
) -> None:
    report = replace(annotated.report, dropped=())
    merged = with_merged_classes(replace(annotated, report=report), [(0, 2)])
    assert merged.report.lines()[-1] == (
        "dropped 1 boxes that repeat a box of the same image (and category, unless proposals)"
    )


def test_proposals_have_no_class_to_merge(annotated: AnnotatedImages, tmp_path: Path) -> None:
    boxes = [
        {"image_id": 1, "category_id": 2, "bbox": [0, 0, 9, number], "score": 0.5}
        for number in (3, 4)
    ]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    proposed = with_proposals(annotated, read_proposals(tmp_path / "boxes.json"))
    merged = with_merged_classes(proposed, [(0, 2), (1, 3)])
    assert merged.vocabulary.names == ("Dog", "cat", "emu")
    assert [one.labels.tolist() for one in merged.records] == [[-1, -1], [], []]
    assert merged.records[0].box_scores is not None
    assert merged.records[0].box_scores.tolist() == [0.5, 0.5]
