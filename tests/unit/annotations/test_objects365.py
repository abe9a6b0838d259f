"""Objects365 and V3Det: COCO's layout, with their own marks, file names and categories."""

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from helpers.samples import GENUINE, OURS, sample_files
from regionspot.annotations import ReadOptions, Reason, read_annotations
from regionspot.core.errors import AnnotationError, MissingFileError, VocabularyError

Json = dict[str, Any]


def objects365(*file_names: str) -> Json:
    images = [
        {"id": 7 * n, "license": 5, "height": 40, "width": 60, "file_name": name, "url": ""}
        for n, name in enumerate(file_names)
    ]
    box = {"image_id": 0, "category_id": 2, "bbox": [1, 2, 3, 4], "iscrowd": 0, "area": 12}
    return {
        "images": images,
        "annotations": [{"id": 1, "isfake": 0, "isreflected": 0, **box}],
        "categories": [{"name": "Person", "id": 1}, {"name": "Sneakers", "id": 2}],
        "licenses": [],
    }


def write(path: Path, value: Json) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")


V1, V2 = (
    "images/v1/patch8/objects365_v1_00420917.jpg",
    "images/v2/patch16/objects365_v2_00900001.jpg",
)


@pytest.mark.parametrize(
    ("on_disk", "wanted"),
    [
        (V2, [V1, V2]),
        ("v1/patch8/a.jpg", [V1.removeprefix("images/"), V2.removeprefix("images/")]),
        ("patch16/b.jpg", [V1.removeprefix("images/v1/"), V2.removeprefix("images/v2/")]),
        ("objects365_v1_00420917.jpg", [V1.rpartition("/")[2], V2.rpartition("/")[2]]),
    ],
)
def test_the_layout_on_disk_decides_for_all_images(
    tmp_path: Path, on_disk: str, wanted: list[str]
) -> None:
    touch(tmp_path / "images_dir" / on_disk)
    path = write(tmp_path / "train.json", objects365(V1, V2))
    data = read_annotations("objects365", path, tmp_path / "images_dir")
    assert [record.file_name for record in data.records] == wanted
    assert [record.image_id for record in data.records] == [0, 7]
    assert data.records[0].size_hw == (40, 60)
    assert data.records[0].labels.tolist() == [1]


def test_the_layout_as_named_comes_first(tmp_path: Path) -> None:
    for name in (V1, "patch8/a.jpg", "b.jpg"):
        touch(tmp_path / name)
    (tmp_path / "v1" / "patch8").mkdir(parents=True)  # empty: says nothing
    path = write(tmp_path / "train.json", objects365(V1))
    assert read_annotations("objects365", path, tmp_path).records[0].file_name == V1
    (tmp_path / V1).unlink()
    assert read_annotations("objects365", path, tmp_path).records[0].file_name == (
        "patch8/objects365_v1_00420917.jpg"
    )


def test_version_1_names_files_without_folders(tmp_path: Path) -> None:
    touch(tmp_path / "any.jpg")
    path = write(tmp_path / "v1.json", objects365("objects365_v1_00420917.jpg"))
    data = read_annotations("objects365", path, tmp_path)
    assert data.records[0].file_name == "objects365_v1_00420917.jpg"


def test_a_folder_without_any_of_the_images_is_named(tmp_path: Path) -> None:
    touch(tmp_path / "images_dir" / "train" / "patch8" / "a.jpg")
    path = write(tmp_path / "train.json", objects365(V1))
    wanted = r"images_dir: searched for images/v1/patch8/\S+, v1/patch8/\S+, patch8/\S+, obj"
    with pytest.raises(
        MissingFileError, match=rf"{wanted}.*It holds train\. Set --annotations\.im"
    ):
        read_annotations("objects365", path, tmp_path / "images_dir")
    shutil.rmtree(tmp_path / "images_dir" / "train")
    with pytest.raises(MissingFileError, match=r"It is empty"):
        read_annotations("objects365", path, tmp_path / "images_dir")


@pytest.mark.parametrize(
    ("path", "image_id", "folder", "size_hw", "listed", "unlisted", "box_xyxy"),
    sample_files(
        (
            *(OURS / "objects365/record.json", 730211, "patch12", (360, 541), "Lamp", 31),
            [120.25098, 33.187988, 195.25391, 244.06689],
        ),
        (
            *(GENUINE / "objects365/zhiyuan_objv2_layout_sample.json", 420917, "patch8"),
            *((512, 769), "Person", 84, [491.3955, 88.185669, 527.0514, 132.62805]),
        ),
    ),
)
def test_a_whole_record_is_read(
    tmp_path: Path,
    path: Path,
    image_id: int,
    folder: str,
    size_hw: tuple[int, int],
    listed: str,
    unlisted: int,
    box_xyxy: list[float],
) -> None:
    touch(tmp_path / folder / "any.jpg")
    accept = ReadOptions(implausible="accept")
    data = read_annotations("objects365", path, tmp_path, options=accept)
    (record,) = data.records
    assert (record.key, record.image_id) == (f"{image_id:012d}", image_id)
    assert record.file_name == f"{folder}/objects365_v1_{image_id:08d}.jpg"
    assert record.size_hw == size_hw
    # The excerpts list one category, and their annotation has another.
    assert data.vocabulary.names == (listed,)
    assert data.report.dropped_for(Reason.UNKNOWN_CATEGORY) == 1
    value = json.loads(path.read_text())
    value["categories"].append({"name": "Ring", "id": unlisted})
    whole = read_annotations("objects365", write(tmp_path / "a.json", value), tmp_path)
    np.testing.assert_array_equal(whole.records[0].boxes_xyxy, np.array([box_xyxy], np.float32))


@pytest.mark.parametrize(
    "known_bad",
    sample_files(
        (OURS / "objects365/bad_images.json",), (GENUINE / "objects365/known_bad_images.json",)
    ),
)
def test_the_known_bad_images_stay_for_extraction_to_quarantine(
    tmp_path: Path, known_bad: Path
) -> None:
    known = json.loads(known_bad.read_text())
    missing = known["listed_in_annotations_but_missing"]
    names = [f"images/{'v2' if 'v2' in name else 'v1'}/{name}" for name in missing]
    wrong_size = known["size_does_not_match_annotation"]
    assert (len(missing), len(wrong_size)) == (3, 2)
    for name in wrong_size:
        touch(tmp_path / name.removeprefix("images/v2/"))
    path = write(tmp_path / "train.json", objects365(*names, *wrong_size))
    records = read_annotations("objects365", path, tmp_path).records
    assert [record.file_name for record in records] == [
        *missing,
        *(name.removeprefix("images/v2/") for name in wrong_size),
    ]
    with pytest.raises(AnnotationError, match=r"keys listed_in_annotations_but_missing, size_does"):
        read_annotations("objects365", known_bad, tmp_path)


V3DET = {
    "annotations": [
        {"image_id": 5, "category_id": 2, "bbox": [1, 2, 3, 4], "iscrowd": 0, "area": 12},
        {"image_id": 5, "category_id": 1, "bbox": [1, 2, 3, 4], "iscrowd": 1, "area": 12},
    ],
    "images": [
        {
            "file_name": "images/n07745046/21_371_29405651261_633d076053_c.jpg",
            "height": 533,
            "width": 800,
            "id": 5,
        }
    ],
    "categories": [
        {
            "name": name,
            "name_zh": "\u67e0\u6aac",
            "cat_info": ['a {["quoted"]} \\ thing'],
            "cat_info_gpt": [],
            "novel": False,
            "id": number,
        }
        for number, name in ((2, "jo\u00eblette"), (1, "lemon"))
    ],
}


def test_v3det_files_lie_where_their_name_says(tmp_path: Path) -> None:
    data = read_annotations("v3det", write(tmp_path / "v3det.json", V3DET), tmp_path)
    (record,) = data.records
    assert record.file_name == "images/n07745046/21_371_29405651261_633d076053_c.jpg"
    assert record.size_hw == (533, 800)
    assert data.vocabulary.names == ("lemon", "jo\u00eblette")
    assert record.labels.tolist() == [1, 0]
    assert data.report.num_crowds == 1


def test_a_name_of_two_categories_names_both(tmp_path: Path) -> None:
    categories = [{**entry, "name": "bow"} for entry in V3DET["categories"]]
    path = write(tmp_path / "v3det.json", {**V3DET, "categories": categories})
    wanted = r"v3det\.json: .*'bow' already occurs.*The categories 1 and 2 are named 'bow'\."
    with pytest.raises(VocabularyError, match=wanted):
        read_annotations("v3det", path, tmp_path)


def test_a_name_that_cannot_be_stored_is_refused(tmp_path: Path) -> None:
    text = json.dumps({**V3DET, "categories": [{"id": 1, "name": "a\ud800"}]})
    (tmp_path / "v3det.json").write_text(text)
    with pytest.raises(VocabularyError, match=r"class name 'a\\ud800' is not UTF-8"):
        read_annotations("v3det", tmp_path / "v3det.json", tmp_path)


@pytest.mark.parametrize(
    "path",
    sample_files((OURS / "v3det/fields.json",), (GENUINE / "v3det/annotation_fields.json",)),
)
def test_a_description_of_v3dets_fields_is_not_taken_for_the_data(
    tmp_path: Path, path: Path
) -> None:
    with pytest.raises(
        AnnotationError, match=r"images\[0\] is 'file_name e\.g\..*wanted an object"
    ):
        read_annotations("v3det", path, tmp_path)


@pytest.mark.parametrize("wanted", ["coco", "lvis", "objects365", "v3det"])
@pytest.mark.parametrize("found", ["objects365", "v3det"])
def test_a_file_of_another_format_names_the_one_to_type(
    tmp_path: Path, found: str, wanted: str
) -> None:
    value = objects365(V1) if found == "objects365" else V3DET
    path = write(tmp_path / "a.json", value)
    touch(tmp_path / V1)
    if found == wanted:
        assert len(read_annotations(found, path, tmp_path).records) == 1
        return
    name = {"objects365": "an Objects365", "v3det": "a V3Det"}[found]
    message = rf"is {name} ground-truth file, but .*format is {wanted}\. Type .*format {found}\."
    with pytest.raises(AnnotationError, match=message):
        read_annotations(wanted, path, tmp_path)


@pytest.mark.parametrize(
    "lvis",
    sample_files((OURS / "lvis/ground_truth.json",), (GENUINE / "lvis/lvis_v0.5_val_100.json",)),
)
@pytest.mark.parametrize("name", ["objects365", "v3det"])
def test_lvis_is_neither(tmp_path: Path, name: Literal["objects365", "v3det"], lvis: Path) -> None:
    touch(tmp_path / "a.jpg")
    with pytest.raises(AnnotationError, match=r"an LVIS ground-truth file"):
        read_annotations(name, lvis, tmp_path)


@pytest.mark.parametrize(
    ("coco", "num_images", "num_annotations"),
    sample_files(
        (OURS / "coco/instances.json", 12, 58),
        (GENUINE / "coco/instances_val2014_100.json", 100, 839),
    ),
)
@pytest.mark.parametrize("name", ["objects365", "v3det"])
def test_plain_coco_is_taken_for_either(
    tmp_path: Path,
    name: Literal["objects365", "v3det"],
    coco: Path,
    num_images: int,
    num_annotations: int,
) -> None:
    touch(tmp_path / "a.jpg")
    report = read_annotations(name, coco, tmp_path).report
    assert (report.num_images, report.num_annotations) == (num_images, num_annotations)


def test_annotations_before_images_and_after_are_the_same(tmp_path: Path) -> None:
    touch(tmp_path / V1)
    value = objects365(V1)
    found = []
    for names in (list(value), list(value)[::-1]):
        path = write(tmp_path / "a.json", {name: value[name] for name in names})
        found.append(read_annotations("objects365", path, tmp_path))
    assert found[0].report == found[1].report
    assert found[0].records[0].boxes_xyxy.tolist() == found[1].records[0].boxes_xyxy.tolist()
