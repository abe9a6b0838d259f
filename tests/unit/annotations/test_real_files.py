"""Whole LVIS and COCO files; the oracles are the data sets' own libraries."""

import json
from collections import Counter
from pathlib import Path

import lvis as lvis_library
import numpy as np
import pytest
from pycocotools import coco as coco_library

from helpers.samples import GENUINE, OURS, sample_files
from regionspot.annotations import (
    AnnotatedImages,
    ImageRecord,
    ReadOptions,
    Reason,
    read_annotations,
    read_coco_json,
)
from regionspot.core.errors import AnnotationError
from regionspot.core.files import sha256_file
from regionspot.core.geometry import xyxy_to_xywh

LVIS = OURS / "lvis/ground_truth.json"
LVIS_V05 = GENUINE / "lvis/lvis_v0.5_val_100.json"
COCO = OURS / "coco/instances.json"
COCO_2014 = GENUINE / "coco/instances_val2014_100.json"
each_lvis = pytest.mark.parametrize("lvis", sample_files((LVIS,), (LVIS_V05,)))
each_coco = pytest.mark.parametrize("coco", sample_files((COCO,), (COCO_2014,)))


def by_image_id(data: AnnotatedImages) -> dict[int, ImageRecord]:
    return {record.image_id: record for record in data.records}


@each_lvis
def test_lvis_regions_are_those_of_the_lvis_library(tmp_path: Path, lvis: Path) -> None:
    data = read_annotations("lvis", lvis, tmp_path)
    theirs = lvis_library.LVIS(str(lvis))

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


@pytest.mark.parametrize(
    ("coco", "categories", "dog"), sample_files((COCO, (6, 12), 11), (COCO_2014, (80, 90), 18))
)
def test_coco_regions_are_those_of_pycocotools_without_its_crowds(
    tmp_path: Path, coco: Path, categories: tuple[int, int], dog: int
) -> None:
    data = read_annotations("coco", coco, tmp_path, options=ReadOptions(crowds="drop"))
    theirs = coco_library.COCO(str(coco))

    crowds = [entry for entry in theirs.anns.values() if entry["iscrowd"]]
    assert len(crowds) > 0
    assert data.report.dropped_for(Reason.CROWD) == len(crowds)
    assert data.report.num_regions == len(theirs.anns) - len(crowds)
    counts = Counter(theirs.anns[number]["image_id"] for number in theirs.getAnnIds(iscrowd=False))
    for image_id, record in by_image_id(data).items():
        assert len(record.labels) == counts[image_id]
    assert (len(data.category_ids), data.category_ids[-1]) == categories  # COCO's ids have gaps
    assert data.vocabulary[data.category_ids.index(dog)] == "dog"


@pytest.mark.parametrize(
    ("path", "size_hw", "num_regions", "first_xywh"),
    sample_files(
        (OURS / "photos/000000031001.json", (480, 640), 7, (65, 222, 153, 152)),
        (GENUINE / "coco/000000142238.json", (427, 640), 18, (282, 207, 48, 149)),
    ),
)
def test_a_coco_photo_has_its_regions(
    path: Path, size_hw: tuple[int, int], num_regions: int, first_xywh: tuple[int, int, int, int]
) -> None:
    (record,) = read_annotations("coco", path, path.parent).records
    assert (record.key, record.file_name) == (path.stem, f"{path.stem}.jpg")
    assert record.size_hw == size_hw
    assert record.boxes_xyxy.shape == (num_regions, 4)
    x, y, width, height = first_xywh
    np.testing.assert_array_equal(record.boxes_xyxy[0], [x, y, x + width, y + height])


@each_lvis
def test_lvis_v1_files_lie_where_their_coco_url_says(tmp_path: Path, lvis: Path) -> None:
    content = json.loads(lvis.read_text(encoding="utf-8"))
    for image in content["images"]:
        del image["file_name"]  # as in version 1
    content["images"][0]["coco_url"] = "http://images.cocodataset.org/train2017/000000391895.jpg"
    path = tmp_path / "lvis_v1_val.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    data = read_annotations("lvis", path, tmp_path)
    assert data.records[0].file_name == "train2017/000000391895.jpg"
    assert data.records[1].file_name.startswith("val2017/")


@each_lvis
def test_lvis_given_as_coco_names_the_format_to_type(tmp_path: Path, lvis: Path) -> None:
    with pytest.raises(AnnotationError, match=r"LVIS ground-truth.*--annotations\.format lvis"):
        read_annotations("coco", lvis, tmp_path)


@each_coco
def test_coco_given_as_lvis_names_the_format_to_type(tmp_path: Path, coco: Path) -> None:
    with pytest.raises(AnnotationError, match=r"COCO ground-truth.*--annotations\.format coco"):
        read_annotations("lvis", coco, tmp_path)


@pytest.mark.parametrize(
    ("path", "number"),
    sample_files(
        (OURS / "coco/results.json", "73"),
        (GENUINE / "coco/instances_val2014_fakebbox100_results.json", "734"),
    ),
)
def test_a_results_file_is_called_one(tmp_path: Path, path: Path, number: str) -> None:
    wanted = rf" {number} detections with scores.*ground-truth file"
    with pytest.raises(AnnotationError, match=wanted):
        read_annotations("coco", path, tmp_path)


@pytest.mark.parametrize(
    ("path", "number"),
    sample_files(
        (OURS / "lvis/categories.json", "9"),
        (GENUINE / "lvis/lvis_v1_train_cat_info.json", "1,203"),
    ),
)
def test_a_list_of_lvis_categories_is_called_one(tmp_path: Path, path: Path, number: str) -> None:
    with pytest.raises(AnnotationError, match=rf" {number} LVIS categories without images"):
        read_annotations("lvis", path, tmp_path)


@each_coco
@pytest.mark.parametrize("piece_bytes", [999, 10_007])
def test_the_size_of_the_pieces_changes_nothing(coco: Path, piece_bytes: int) -> None:
    whole, cut = (
        read_coco_json(coco, format_name="coco", piece_bytes=number)
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
    assert whole.sha256s == cut.sha256s == (sha256_file(coco),)


@each_lvis
def test_lvis_v1_given_as_coco_names_the_format_although_no_image_names_its_file(
    tmp_path: Path, lvis: Path
) -> None:
    content = json.loads(lvis.read_text(encoding="utf-8"))
    for image in content["images"]:
        del image["file_name"]
    path = tmp_path / "lvis_v1_val.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(AnnotationError, match=r"LVIS ground-truth.*--annotations\.format lvis"):
        read_annotations("coco", path, tmp_path)


@pytest.mark.parametrize(
    ("lvis", "counted", "names"),
    sample_files(
        (LVIS, (9, 16, 4), ("garden_gnome", "lawn_gnome", "garden_dwarf", "gnome")),
        (
            LVIS_V05,
            (1230, 1850, 412),
            ("baby_buggy", "baby_carriage", "perambulator", "pram", "stroller"),
        ),
    ),
)
def test_lvis_files_list_all_names_of_each_class(
    tmp_path: Path, lvis: Path, counted: tuple[int, int, int], names: tuple[str, ...]
) -> None:
    data = read_annotations("lvis", lvis, tmp_path)
    assert data.synonyms is not None
    # Counted by hand in the files: categories, their names, and those with more names than one.
    assert counted == (
        len(data.synonyms),
        sum(map(len, data.synonyms)),
        sum(len(names) > 1 for names in data.synonyms),
    )
    assert [names[0] for names in data.synonyms] == list(data.vocabulary)
    assert data.synonyms[data.vocabulary.index_of(names[0])] == names


@each_coco
def test_coco_files_list_no_synonyms(tmp_path: Path, coco: Path) -> None:
    assert read_annotations("coco", coco, tmp_path).synonyms is None
