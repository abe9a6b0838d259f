"""``regionspot recognize`` on several images; oracles: the class RegionSpot, and the readers."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.heads import random_head
from regionspot import Regions, RegionSpot
from regionspot.annotations import read_annotations
from regionspot.backbones import ModelsConfig, load_frozen_models
from regionspot.cli.main import main
from regionspot.model import save_trained_head

NAMES = ("striped red circle", "plain blue square", "sea egg")
BOXES = {"a.png": [[10, 20, 80, 90], [5, 5, 60, 60]], "below/b.png": [[1, 2, 30, 40]]}


@pytest.fixture(scope="module")
def head_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    trained = random_head(
        load_frozen_models(ModelsConfig(preset="toy")), seed=0, vocabulary=NAMES, templates="single"
    )
    folder = tmp_path_factory.mktemp("head")
    save_trained_head(folder, trained)
    return folder


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the images, and their boxes as CSV."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    lines = ["image,x1,y1,x2,y2"]
    for name, boxes in BOXES.items():
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (90, 130, 3), dtype=np.uint8)).save(path)
        lines += [",".join(map(str, [name, *box])) for box in boxes]
    (tmp_path / "boxes.csv").write_text("\n".join(lines))
    return tmp_path


def run(head_dir: Path, *words: str) -> int:
    try:
        main(["recognize", "--model", str(head_dir), "--device", "cpu", *words])
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def expected(head_dir: Path, name: str) -> Regions:
    model = RegionSpot.from_pretrained(head_dir, device="cpu")
    return model.recognize(Path("images", name), BOXES[name], top_k=3)


def json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_json_lines_say_what_the_class_says(
    head_dir: Path, work: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(head_dir, "images", "--csv", "boxes.csv") == 0
    rows = json_lines(capfd.readouterr().out)
    assert [row["image"] for row in rows] == ["images/a.png", "images/below/b.png"]
    for row, name in zip(rows, BOXES, strict=True):
        del row["image"]
        assert row == expected(head_dir, name).to_dict()


def test_csv_rows_can_be_cached(head_dir: Path, work: Path) -> None:
    assert run(head_dir, "images", "--csv", "boxes.csv", "--format", "csv", "--output", "out") == 0
    with Path("out/regions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == [
        label for name in BOXES for label in expected(head_dir, name).labels
    ]
    data = read_annotations("csv", Path("out/regions.csv"), work)
    assert [one.boxes_xyxy.tolist() for one in data.records] == list(BOXES.values())


def test_a_coco_file_goes_out_and_in(
    head_dir: Path, work: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["images", "--csv", "boxes.csv", "--format", "coco", "--output", "out"]
    assert run(head_dir, *words) == 0
    data = read_annotations("coco", Path("out/regions.json"), work)
    assert data.vocabulary.names == NAMES
    assert [one.boxes_xyxy.tolist() for one in data.records] == list(BOXES.values())
    labels = [[data.vocabulary[n] for n in one.labels] for one in data.records]
    assert labels == [list(expected(head_dir, name).labels) for name in BOXES]
    capfd.readouterr()
    assert run(head_dir, "images", "--coco", "out/regions.json") == 0
    assert [len(row["regions"]) for row in json_lines(capfd.readouterr().out)] == [2, 1]


def test_pictures_keep_the_folders_of_their_images(head_dir: Path, work: Path) -> None:
    assert run(head_dir, "images", "--csv", "boxes.csv", "--format", "png", "--output", "out") == 0
    pictures = [path.relative_to("out").as_posix() for path in Path("out").rglob("*.png")]
    assert sorted(pictures) == ["a.png.png", "below/b.png.png"]


def test_sam_finds_the_regions_of_several_images(
    head_dir: Path, work: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    grid = ["--grid.points_per_side", "2", "--grid.max_regions", "3"]
    grid += ["--grid.pred_iou_thresh", "0", "--grid.stability_score_thresh", "0"]
    assert run(head_dir, "images/a.png", "images/below", "--everything", *grid) == 0
    assert len(json_lines(capfd.readouterr().out)) == 2


def test_after_an_image_that_cannot_be_used_the_others_follow(
    head_dir: Path, work: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (work / "images" / "a.png").write_bytes(b"no image")
    assert run(head_dir, "images", "--csv", "boxes.csv") == 1
    captured = capfd.readouterr()
    failed, named = json_lines(captured.out)
    assert "no image that Pillow can open" in failed["error"]
    assert len(named["regions"]) == 1
    assert "error: images/a.png: " in captured.err
    assert "1 of 2 images could not be used" in captured.err


def test_an_image_without_boxes_has_no_regions(
    head_dir: Path,
    work: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    Path("boxes.csv").write_text("image,x1,y1,x2,y2\na.png,1,2,30,40\nc.png,1,2,30,40\n")
    assert run(head_dir, "images", "--csv", "boxes.csv") == 0
    assert [len(row["regions"]) for row in json_lines(capfd.readouterr().out)] == [1, 0]
    assert [record.message for record in caplog.records] == [
        "1 of 2 images have no boxes, such as images/below/b.png",
        "the boxes of 1 of 2 images are not used, such as those of c.png",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no image is given"),
        (["images"], "found none of them; wanted exactly one of"),
        (["images", "--boxes", "1,2,30,40"], "--boxes is for the regions of one image"),
        (["images/a.png", "--points", "3,4", "--format", "json"], "--points is for the regions of"),
        (["images", "--everything", "--format", "png"], "wanted a folder in --output"),
        (["images", "--everything", "--output", "boxes.csv"], "is a file; wanted a folder"),
        (["nowhere", "images", "--everything"], "no image file or folder at nowhere"),
        (["images", "images/a.png", "--everything"], "two images are named a.png"),
        (["images", "--csv", "other.csv"], "the boxes are of other images: of x.png"),
        (["images", "--csv", "bad.csv"], "in any order. Set --csv to such a file"),
        (["images", "--coco", "bad.csv"], "is not JSON"),
        (["images", "--coco", "gone.json"], "no file at gone.json: check --coco"),
        (["empty", "--everything"], "has no image in it"),
    ],
)
def test_mistakes_exit_with_2(
    head_dir: Path,
    work: Path,
    words: list[str],
    message: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    Path("other.csv").write_text("image,x1,y1,x2,y2\nx.png,1,2,30,40\n")
    Path("bad.csv").write_text("image,x,y\nx.png,1,2\n")
    Path("empty").mkdir()
    assert run(head_dir, *words) == 2
    captured = capfd.readouterr()
    assert message in captured.err
    assert captured.out == ""
