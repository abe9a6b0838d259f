"""YOLO data sets as tools write them; torchvision and COCO's own layout are the oracles."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import yaml
from torchvision.ops import box_convert

from regionspot.annotations import AnnotatedImages, ReadOptions, Reason, read_annotations
from regionspot.core.errors import (
    AnnotationError,
    ConfigError,
    MissingFileError,
    RegionSpotError,
    VocabularyError,
)
from regionspot.toy import generate_world

NAMES = ["red heart", "sea egg"]


def make(root: Path, files: Mapping[str, str], **content: object) -> Path:
    """Write files below a folder; images are empty, since no reader opens them."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    path = root / "data.yaml"
    if content:
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def read(path: Path, root: Path, split: str | None = None) -> AnnotatedImages:
    return read_annotations("yolo", path, root, options=ReadOptions(split=split))


ULTRALYTICS = {
    "images/train/a.jpg": "",
    "labels/train/a.txt": "1 0.5 0.5 0.25 0.5\n0 0.2 0.3 0.1 0.1\n",
    "images/train/b.png": "",
    "images/val/c.jpg": "",
    "labels/val/c.txt": "0 0.5 0.5 0.5 0.5",
}


def test_a_box_is_a_center_and_a_size_in_fractions(tmp_path: Path) -> None:
    path = make(tmp_path, ULTRALYTICS, names=NAMES, train="images/train", val="images/val")
    data = read(path, tmp_path, "train")
    first, background = data.records
    lines = torch.tensor([[0.5, 0.5, 0.25, 0.5], [0.2, 0.3, 0.1, 0.1]])
    assert torch.allclose(
        torch.from_numpy(first.boxes_xyxy), box_convert(lines, "cxcywh", "xyxy"), atol=1e-7
    )
    assert (first.file_name, first.labels.tolist()) == ("images/train/a.jpg", [1, 0])
    assert (background.file_name, len(background.labels)) == ("images/train/b.png", 0)
    assert first.resolved((100, 200)).record.boxes_xyxy[0].tolist() == [75, 25, 125, 75]
    assert data.vocabulary.names == tuple(NAMES)
    assert data.report.num_images_without_regions == 1


def test_the_toy_world_has_the_same_regions_as_its_coco_file(tmp_path: Path) -> None:
    generate_world(tmp_path, seed=3, num_val=6, num_train=1)
    content = json.loads((tmp_path / "val.json").read_text(encoding="utf-8"))
    sizes = {one["id"]: (one["width"], one["height"]) for one in content["images"]}
    lines: dict[str, str] = {}
    for one in content["annotations"]:
        width, height = sizes[one["image_id"]]
        x, y, w, h = one["bbox"]
        box = [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height]
        name = f"val/{one['image_id']:012d}.txt"
        lines[name] = lines.get(name, "") + f"{one['category_id']} {' '.join(map(str, box))}\n"
    names = {one["id"]: one["name"] for one in content["categories"]}
    path = make(tmp_path, lines, names=names, val="val")
    expected = {
        record.file_name.rpartition("/")[2]: record
        for record in read_annotations("lvis", tmp_path / "val.json", tmp_path).records
    }
    for record in read(path, tmp_path).records:
        other = expected[record.file_name.rpartition("/")[2]]
        found = record.resolved(other.size_hw).record
        assert abs(found.boxes_xyxy - other.boxes_xyxy).max() < 1e-3
        assert found.labels.tolist() == other.labels.tolist()


def test_the_extent_of_a_polygon_or_an_oriented_box_is_the_region(tmp_path: Path) -> None:
    files = {"a.jpg": "", "a.txt": "0 0.5 0.1 0.9 0.5 0.5 0.9 0.1 0.5\n0 .1 .2 .3 .1 .2 .4\n"}
    path = make(tmp_path, files, names=NAMES, train=".")
    boxes = read(path, tmp_path).records[0].boxes_xyxy
    assert boxes.ravel().tolist() == pytest.approx([0.1, 0.1, 0.9, 0.9, 0.1, 0.1, 0.3, 0.4])


def test_keypoints_follow_the_box(tmp_path: Path) -> None:
    files = {"a.jpg": "", "a.txt": "0 0.5 0.5 0.2 0.2 0.4 0.4 2 0.6 0.6 1"}
    path = make(tmp_path, files, names=NAMES, train=".", kpt_shape=[2, 3])
    boxes = read(path, tmp_path).records[0].boxes_xyxy
    assert boxes.ravel().tolist() == pytest.approx([0.4, 0.4, 0.6, 0.6])


@pytest.mark.parametrize(
    ("files", "content", "split"),
    [
        (  # Roboflow
            {"train/images/a.jpg": "", "train/labels/a.txt": "0 .5 .5 .2 .2"},
            {"names": NAMES, "nc": 2, "train": "../train/images", "val": "../valid/images"},
            "train",
        ),
        (  # CVAT: a list of images
            {
                "images/train/a.jpg": "",
                "labels/train/a.txt": "0 .5 .5 .2 .2",
                "train.txt": "data/images/train/a.jpg\n",
            },
            {"names": {0: "red heart", 1: "sea egg"}, "path": ".", "train": "train.txt"},
            None,
        ),
        (  # several folders
            {"x/images/a.jpg": "", "x/labels/a.txt": "0 .5 .5 .2 .2", "y/images/b.jpg": ""},
            {"names": NAMES, "train": ["x/images", "y/images"]},
            None,
        ),
    ],
)
def test_data_yaml_as_tools_write_it(
    tmp_path: Path, files: Mapping[str, str], content: Mapping[str, object], split: str | None
) -> None:
    data = read(make(tmp_path, files, **content), tmp_path, split)
    assert data.records[0].labels.tolist() == [0]
    assert data.records[0].file_name.endswith("images/a.jpg" if split else "a.jpg")
    assert data.report.notes[:1] != ("1 label files have no image",)


@pytest.mark.parametrize(
    ("files", "images_dir"),
    [
        ({"images/a.jpg": "", "labels/a.txt": "1 .5 .5 .2 .2", "classes.txt": ""}, "."),
        ({"images/a.jpg": "", "labels/a.txt": "1 .5 .5 .2 .2", "classes.txt": ""}, "images"),
        ({"a.jpg": "", "a.txt": "1 .5 .5 .2 .2", "classes.txt": ""}, "."),  # labelImg
        ({"obj_train_data/a.jpg": "", "obj_train_data/a.txt": "1 .5 .5 .2 .2"}, "."),  # CVAT
    ],
)
def test_a_list_of_names_in_place_of_data_yaml(
    tmp_path: Path, files: Mapping[str, str], images_dir: str
) -> None:
    make(tmp_path, {**files, "classes.txt": "\n".join(NAMES) + "\n"})
    data = read(tmp_path / "classes.txt", tmp_path / images_dir)
    (record,) = data.records
    assert record.file_name.endswith("a.jpg")
    assert [data.vocabulary[label] for label in record.labels] == ["sea egg"]


def test_a_label_file_without_image_is_reported(tmp_path: Path) -> None:
    files = {**ULTRALYTICS, "labels/train/gone.txt": "0 .5 .5 .1 .1"}
    path = make(tmp_path, files, names=NAMES, train="images/train")
    (note, *_) = read(path, tmp_path).report.notes
    assert note.startswith("1 label files have no image: ")
    assert note.endswith("labels/train/gone.txt")


def test_invalid_boxes_and_unnamed_classes_are_counted(tmp_path: Path) -> None:
    lines = "0 .5 .5 0 .1\n7 .5 .5 .1 .1\n0 nan .5 .1 .1\n" + "".join(
        f"0 .5 .5 .1 .{n}\n" for n in range(1, 6)
    )
    path = make(tmp_path, {"a.jpg": "", "a.txt": lines}, names=NAMES, train=".")
    report = read(path, tmp_path).report
    assert report.num_regions == 5
    assert [report.dropped_for(reason) for reason in (Reason.ZERO_AREA, Reason.NOT_FINITE)] == [
        *(1, 1)
    ]
    assert report.dropped_for(Reason.UNKNOWN_CATEGORY) == 1


@pytest.mark.parametrize(
    "line", ["0 .5 .5 .1", "0 .5 .5 .1 .1 .9", "cat .5 .5 .1 .1", "-1 .5 .5 .1 .1", "0.5 0 0 1 1"]
)
def test_a_bad_line_is_refused_with_its_place(tmp_path: Path, line: str) -> None:
    path = make(tmp_path, {"a.jpg": "", "a.txt": f"0 .5 .5 .1 .1\n{line}\n"}, names=NAMES, val=".")
    with pytest.raises(AnnotationError, match=r"a\.txt, line 2 is .*wanted class, center x"):
        read(path, tmp_path)


def test_labels_in_pixels_are_refused(tmp_path: Path) -> None:
    lines = "".join(f"0 {50 + n} 60 20 30\n" for n in range(5))
    path = make(tmp_path, {"a.jpg": "", "a.txt": lines}, names=NAMES, train=".")
    with pytest.raises(AnnotationError, match="They look like pixels"):
        read(path, tmp_path)


@pytest.mark.parametrize(
    ("content", "split", "kind", "message"),
    [
        (
            {"names": NAMES, "train": "images/train", "val": "images/val"},
            *(None, ConfigError, "has the splits train, val. Set --annotations.split"),
        ),
        ({"names": NAMES, "train": "images/train"}, "test", ConfigError, "has the splits train"),
        ({"names": NAMES, "train": "gone"}, None, MissingFileError, "train is gone, but there is"),
        ({"names": NAMES, "train": "/elsewhere"}, None, MissingFileError, "there is no /elsewhere"),
        ({"names": NAMES}, None, AnnotationError, "none of the keys train"),
        ({"nc": 2, "train": "x"}, None, AnnotationError, "no list of class names"),
        (
            {"names": NAMES, "nc": 3, "train": "images/train"},
            *(None, AnnotationError, "nc is 3, but names has 2"),
        ),
        ({"names": [True], "train": "x"}, None, AnnotationError, "put the name in quotes"),
        (
            {"names": ["a", "a"], "train": "images/train"},
            *(None, VocabularyError, "'a' already occurs"),
        ),
    ],
)
def test_what_cannot_be_read_is_explained(
    tmp_path: Path,
    content: Mapping[str, object],
    split: str | None,
    kind: type[RegionSpotError],
    message: str,
) -> None:
    path = make(tmp_path, ULTRALYTICS, **content)
    with pytest.raises(kind, match=message):
        read(path, tmp_path, split)


def test_images_without_any_label_file_are_refused(tmp_path: Path) -> None:
    path = make(tmp_path, {"images/a.jpg": ""}, names=NAMES, train="images")
    with pytest.raises(AnnotationError, match="none of its 1 images has a label file"):
        read(path, tmp_path)


def test_another_format_is_named(tmp_path: Path) -> None:
    make(tmp_path, {"a.csv": "x", "xml/a.xml": "<a/>", "a.jpg": ""}, names=NAMES, train=".")
    with pytest.raises(AnnotationError, match="may be in the format csv"):
        read(tmp_path / "a.csv", tmp_path)
    with pytest.raises(AnnotationError, match="may be in the format voc"):
        read(tmp_path / "xml", tmp_path)
    with pytest.raises(AnnotationError, match="is not JSON.*or type --annotations.format yolo"):
        read_annotations("coco", tmp_path / "data.yaml", tmp_path)
    with pytest.raises(MissingFileError, match="may be in the format voc"):
        read_annotations("coco", tmp_path / "xml", tmp_path)
