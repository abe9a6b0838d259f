"""``regionspot recognize`` on several images; oracles: the class RegionSpot, and the readers."""

import csv
import json
import os
import signal
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
from regionspot.cli.recognize_inputs import ImageJob
from regionspot.cli.recognize_outputs import RecordMaker
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


@pytest.mark.parametrize("batch_size", [1, 4])
def test_json_lines_say_what_the_class_says(
    head_dir: Path, work: Path, batch_size: int, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(head_dir, "images", "--csv", "boxes.csv", "--batch_size", str(batch_size)) == 0
    rows = json_lines(capfd.readouterr().out)
    assert [row["image"] for row in rows] == ["images/a.png", "images/below/b.png"]
    for row, name in zip(rows, BOXES, strict=True):
        wanted = expected(head_dir, name).to_dict()
        assert (row["height"], row["width"]) == (wanted["height"], wanted["width"])
        for region, region_wanted in zip(row["regions"], wanted["regions"], strict=True):
            assert region["top_labels"] == region_wanted["top_labels"]
            assert region["box_xyxy"] == region_wanted["box_xyxy"]
            assert region["top_scores"] == pytest.approx(region_wanted["top_scores"], abs=1e-5)


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


def test_an_image_that_the_models_refuse_fails_alone(
    head_dir: Path, work: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (3000, 2)).save("images/long.png")
    with Path("boxes.csv").open("a") as file:
        file.write("\nlong.png,0,0,100,2\n")
    assert run(head_dir, "images", "--csv", "boxes.csv") == 1
    rows = {row["image"]: row for row in json_lines(capfd.readouterr().out)}
    assert "too elongated" in rows.pop("images/long.png")["error"]
    assert [len(row["regions"]) for row in rows.values()] == [2, 1]


class PowerCutError(Exception):
    """Ends a run in the middle."""


def interrupt(head_dir: Path, *words: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        whole = RecordMaker.record

        def record(maker: RecordMaker, job: ImageJob, found: Any) -> Any:
            if job.name != "a.png":
                raise PowerCutError
            return whole(maker, job, found)

        patch.setattr(RecordMaker, "record", record)
        with pytest.raises(PowerCutError):
            run(head_dir, *words)


def contents(folder: str) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("kind", ["json", "csv", "coco", "png"])
def test_the_same_command_continues_an_interrupted_run(
    head_dir: Path, work: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["images", "--csv", "boxes.csv", "--format", kind, "--batch_size", "1"]
    assert run(head_dir, *words, "--output", "whole") == 0
    interrupt(head_dir, *words, "--output", "out")
    unfinished = f"unfinished_{kind}.jsonl"
    assert set(contents("out")) == {unfinished, *(["a.png.png"] if kind == "png" else [])}
    with Path("out", unfinished).open("ab") as file:
        file.write(b'{"image": "images/bel')  # as a killed process may leave it
    Path("images/a.png").write_bytes(b"is not opened again")
    capfd.readouterr()
    assert run(head_dir, *words, "--output", "out") == 0
    assert "1 images were finished before" in capfd.readouterr().err
    assert contents("out") == contents("whole")


def test_an_image_that_failed_before_the_interruption_is_tried_again(
    head_dir: Path, work: Path
) -> None:
    words = ["images", "--csv", "boxes.csv", "--format", "json", "--output", "out"]
    pixels = Path("images/a.png").read_bytes()
    Path("images/a.png").write_bytes(b"no image")
    interrupt(head_dir, *words)
    Path("images/a.png").write_bytes(pixels)
    assert run(head_dir, *words) == 0
    rows = json_lines(Path("out/regions.jsonl").read_text(encoding="utf-8"))
    assert [len(row["regions"]) for row in rows] == [2, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ["--vocabulary", "sea egg"],
            "an interrupted run with another --vocabulary. Give the same",
        ),
        (["--top_k", "1"], "with another --top_k"),
    ],
)
def test_an_interrupted_run_is_not_continued_with_other_options(
    head_dir: Path,
    work: Path,
    change: list[str],
    message: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    words = ["images", "--csv", "boxes.csv", "--output", "out"]
    interrupt(head_dir, *words)
    before = contents("out")
    assert run(head_dir, *words, *change) == 2
    assert message in capfd.readouterr().err
    assert contents("out") == before


def test_when_the_reader_of_the_lines_has_ended_the_run_ends_quietly(
    head_dir: Path, work: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        monkeypatch.setattr("sys.stdout", pipe)
        assert run(head_dir, "images", "--csv", "boxes.csv") == 128 + signal.SIGPIPE
    assert "Traceback" not in capfd.readouterr().err


def test_points_of_one_image_may_be_written_as_a_json_line(
    head_dir: Path, work: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(head_dir, "images/a.png", "--points", "30,40 50,60", "--format", "json") == 0
    (row,) = json_lines(capfd.readouterr().out)
    assert len(row["regions"]) == 2


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
        (["images", "--points", "3,4", "--format", "json"], "--points is for the regions of"),
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
