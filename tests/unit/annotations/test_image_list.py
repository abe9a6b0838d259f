"""A list of images selects a part of any data set; a COCO file cut by hand is the oracle."""

import json
from pathlib import Path

import numpy as np
import pytest

from regionspot.annotations import ReadOptions, read_annotations
from regionspot.core.errors import AnnotationError, MissingFileError
from regionspot.toy import generate_world


def test_listed_images_keep_ids_keys_classes_and_regions(tmp_path: Path) -> None:
    generate_world(tmp_path, seed=3, num_val=8, num_train=1)
    content = json.loads((tmp_path / "val.json").read_text(encoding="utf-8"))
    path = tmp_path / "list.txt"
    names = [f"val/{one['id']:012d}.jpg" for one in content["images"]]
    path.write_text("\n".join([names[5], names[2]]) + "\n")
    kept = {content["images"][row]["id"] for row in (2, 5)}
    content["images"] = [one for one in content["images"] if one["id"] in kept]
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] in kept]
    cut = tmp_path / "cut.json"
    cut.write_text(json.dumps(content))
    by_hand = read_annotations("lvis", cut, tmp_path)
    listed = read_annotations(
        "lvis", tmp_path / "val.json", tmp_path, options=ReadOptions(image_list=path)
    )
    assert listed.vocabulary == by_hand.vocabulary
    assert listed.records.keys() == by_hand.records.keys()
    for one, other in zip(listed.records, by_hand.records, strict=True):
        assert (one.image_id, one.file_name) == (other.image_id, other.file_name)
        assert np.array_equal(one.boxes_xyxy, other.boxes_xyxy)
        assert np.array_equal(one.labels, other.labels)
    assert listed.report.num_annotations == by_hand.report.num_annotations
    assert "2 of 8 images, those in list.txt" in listed.report.notes


def test_positions_of_dropped_annotations_are_those_in_the_file(tmp_path: Path) -> None:
    path, listed = tmp_path / "own.csv", tmp_path / "list.txt"
    path.write_text("image,x1,y1,x2,y2,label\na.jpg,0,0,5,5,x\nb.jpg,0,0,5,5,x\nb.jpg,9,9,9,9,x\n")
    listed.write_text("b.jpg\n")
    data = read_annotations("csv", path, tmp_path, options=ReadOptions(image_list=listed))
    assert [one.first for one in data.report.dropped] == [(2,)]
    assert data.records[0].image_id == 1


def test_a_list_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path, listed = tmp_path / "own.csv", tmp_path / "list.txt"
    path.write_text("image,x1,y1,x2,y2,label\na.jpg,0,0,5,5,x\n")
    options = ReadOptions(image_list=listed)
    with pytest.raises(MissingFileError, match=r"no list of images at .*list\.txt"):
        read_annotations("csv", path, tmp_path, options=options)
    listed.write_text("\n")
    with pytest.raises(AnnotationError, match="lists no image"):
        read_annotations("csv", path, tmp_path, options=options)
    listed.write_text("a.jpg\nc.jpg\n")
    with pytest.raises(AnnotationError, match=r"lists 1 images .*'c\.jpg'\. Wanted .*'a\.jpg'"):
        read_annotations("csv", path, tmp_path, options=options)
