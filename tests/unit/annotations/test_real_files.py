"""The genuine LVIS and COCO files; the oracles are the data sets' own libraries."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from lvis import LVIS
from pycocotools.coco import COCO

from regionspot.annotations import (
    AnnotatedImages,
    ImageRecord,
    ReadOptions,
    Reason,
    read_annotations,
)
from regionspot.annotations.coco import named_file
from regionspot.annotations.coco_json import read_coco_json
from regionspot.core.errors import AnnotationError
from regionspot.core.geometry import xyxy_to_xywh
from regionspot.core.hashing import sha256_file

DATA = Path(__file__).parents[4] / "shared" / "data"
LVIS_V05 = DATA / "lvis" / "lvis_v0.5_val_100.json"
COCO_2014 = DATA / "coco" / "instances_val2014_100.json"
COCO_RESULTS = DATA / "coco" / "instances_val2014_fakebbox100_results.json"
COCO_PHOTO = DATA / "coco" / "000000142238.json"

pytestmark = pytest.mark.skipif(
    not DATA.is_dir(), reason="the sample files lie outside the project, in ../shared/data"
)


def by_image_id(data: AnnotatedImages) -> dict[int, ImageRecord]:
    return {record.image_id: record for record in data.records}


def test_lvis_regions_are_those_of_the_lvis_library(tmp_path: Path) -> None:
    data = read_annotations("lvis", LVIS_V05, tmp_path)
    theirs = LVIS(str(LVIS_V05))

    assert data.category_ids == tuple(sorted(theirs.cats))
    assert list(data.vocabulary) == [theirs.cats[number]["name"] for number in data.category_ids]
    records = by_image_id(data)
    assert records.keys() == theirs.imgs.keys()
    assert data.report.num_regions == len(theirs.anns)
    for image_id, record in records.items():
        image = theirs.imgs[image_id]
        assert record.size_hw == (image["height"], image["width"])
        assert record.file_name == image["file_name"]
        found = theirs.load_anns(theirs.get_ann_ids(img_ids=[image_id]))
        wanted = sorted((entry["category_id"], *entry["bbox"]) for entry in found)
        ours = sorted(
            (data.category_ids[label], *box)
            for label, box in zip(record.labels, xyxy_to_xywh(record.boxes_xyxy), strict=True)
        )
        # Clipping moves an edge by the rounding of LVIS's own coordinates, no more.
        np.testing.assert_allclose(ours, wanted, atol=0.02)


def test_coco_regions_are_those_of_pycocotools_without_its_crowds(tmp_path: Path) -> None:
    data = read_annotations("coco", COCO_2014, tmp_path, options=ReadOptions(crowds="drop"))
    theirs = COCO(str(COCO_2014))

    crowds = [entry for entry in theirs.anns.values() if entry["iscrowd"]]
    assert len(crowds) > 0
    assert data.report.dropped_for(Reason.CROWD) == len(crowds)
    assert data.report.num_regions == len(theirs.anns) - len(crowds)
    counts = Counter(theirs.anns[number]["image_id"] for number in theirs.getAnnIds(iscrowd=False))
    for image_id, record in by_image_id(data).items():
        assert len(record.labels) == counts[image_id]
    assert len(data.category_ids) == 80
    assert data.category_ids[-1] == 90  # COCO's ids have gaps
    assert data.vocabulary[data.category_ids.index(18)] == "dog"


def test_the_coco_photo_has_its_18_regions() -> None:
    data = read_annotations("coco", COCO_PHOTO, COCO_PHOTO.parent)
    (record,) = data.records
    assert (record.key, record.file_name) == ("000000142238", "000000142238.jpg")
    assert record.size_hw == (427, 640)
    assert record.boxes_xyxy.shape == (18, 4)
    np.testing.assert_array_equal(record.boxes_xyxy[0], [282, 207, 282 + 48, 207 + 149])


def test_lvis_v1_files_lie_where_their_coco_url_says(tmp_path: Path) -> None:
    content = json.loads(LVIS_V05.read_text(encoding="utf-8"))
    for image in content["images"]:
        del image["file_name"]  # as in version 1
    content["images"][0]["coco_url"] = "http://images.cocodataset.org/train2017/000000391895.jpg"
    path = tmp_path / "lvis_v1_val.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    data = read_annotations("lvis", path, tmp_path)
    assert data.records[0].file_name == "train2017/000000391895.jpg"
    assert data.records[1].file_name.startswith("val2017/")


def test_lvis_given_as_coco_names_the_format_to_type(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"LVIS ground-truth.*--annotations\.format lvis"):
        read_annotations("coco", LVIS_V05, tmp_path)


def test_coco_given_as_lvis_names_the_format_to_type(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"COCO ground-truth.*--annotations\.format coco"):
        read_annotations("lvis", COCO_2014, tmp_path)


def test_a_results_file_is_called_one(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"734 detections with scores.*ground-truth file"):
        read_annotations("coco", COCO_RESULTS, tmp_path)


def test_a_list_of_lvis_categories_is_called_one(tmp_path: Path) -> None:
    path = DATA / "lvis" / "lvis_v1_train_cat_info.json"
    with pytest.raises(AnnotationError, match=r"1,203 LVIS categories without images"):
        read_annotations("lvis", path, tmp_path)


@pytest.mark.parametrize("piece_bytes", [999, 10_007])
def test_the_size_of_the_pieces_changes_nothing(piece_bytes: int) -> None:
    whole, cut = (
        read_coco_json(COCO_2014, format_name="coco", file_name_of=named_file, piece_bytes=number)
        for number in (1 << 24, piece_bytes)
    )
    for ours, theirs in (
        (whole.images.ids, cut.images.ids),
        (whole.image_rows, cut.image_rows),
        (whole.labels, cut.labels),
        (whole.boxes_xyxy, cut.boxes_xyxy),
        (whole.marks[Reason.CROWD], cut.marks[Reason.CROWD]),
    ):
        np.testing.assert_array_equal(ours, theirs)
    assert whole.vocabulary == cut.vocabulary
    assert whole.sha256s == cut.sha256s == (sha256_file(COCO_2014),)


def test_lvis_v1_given_as_coco_names_the_format_although_no_image_names_its_file(
    tmp_path: Path,
) -> None:
    content = json.loads(LVIS_V05.read_text(encoding="utf-8"))
    for image in content["images"]:
        del image["file_name"]
    path = tmp_path / "lvis_v1_val.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(AnnotationError, match=r"LVIS ground-truth.*--annotations\.format lvis"):
        read_annotations("coco", path, tmp_path)


def test_lvis_files_list_all_names_of_each_class(tmp_path: Path) -> None:
    data = read_annotations("lvis", LVIS_V05, tmp_path)
    assert data.synonyms is not None
    # Counted by hand in the file: 412 of the 1,230 categories have more names than one.
    assert len(data.synonyms) == 1230
    assert sum(map(len, data.synonyms)) == 1850
    assert sum(len(names) > 1 for names in data.synonyms) == 412
    assert [names[0] for names in data.synonyms] == list(data.vocabulary)
    assert data.synonyms[data.vocabulary.index_of("baby_buggy")] == (
        *("baby_buggy", "baby_carriage", "perambulator", "pram", "stroller"),
    )


def test_coco_files_list_no_synonyms(tmp_path: Path) -> None:
    assert read_annotations("coco", COCO_2014, tmp_path).synonyms is None
