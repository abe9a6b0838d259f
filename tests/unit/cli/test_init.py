"""``regionspot init`` on folders as tools write them; the readers of the caches are the oracle."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from regionspot.annotations import AnnotatedImages, read_annotations
from regionspot.cli.cache import parse_config
from regionspot.cli.evaluate import parse_config as parse_evaluation
from regionspot.cli.main import main

HEADER = "image,x1,y1,x2,y2,label\n"
XML = (
    "<annotation><filename>{stem}.jpg</filename><size><width>50</width><height>50</height></size>"
    "<object><name>{name}</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax>"
    "</bndbox></object></annotation>"
)


def make(root: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def coco(names: list[str]) -> str:
    box = {"bbox": [1, 1, 9, 9], "category_id": 3}
    return json.dumps(
        {
            "images": [
                {"id": n, "file_name": name, "width": 50, "height": 50}
                for n, name in enumerate(names)
            ],
            "annotations": [box | {"id": n, "image_id": n} for n in range(len(names))],
            "categories": [{"id": 3, "name": "cat"}],
        }
    )


def csv_rows(names: list[str], label: str = "cat") -> str:
    return HEADER + "".join(f"{name},1,1,9,9,{label}\n" for name in names)


TEN = [f"{n}.jpg" for n in range(10)]
IMAGES = {f"images/{name}": "" for name in TEN}


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


def read(name: str) -> AnnotatedImages:
    """Read what the command ``cache`` would read with a written configuration."""
    options = parse_config(["--config", f"runs/data/{name}.yaml"]).annotations
    return read_annotations(
        options.format,
        Path(options.path),
        Path(options.images_dir),
        options=options.read_options(),
    )


def written(name: str) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(Path(f"runs/data/{name}.yaml").read_text())
    return config


@pytest.mark.parametrize(
    ("files", "format_name"),
    [
        ({"labels.json": coco(TEN), **IMAGES}, "coco"),
        ({"annotations/instances.json": coco(TEN), **IMAGES}, "coco"),
        ({"boxes.csv": csv_rows(TEN), **IMAGES}, "csv"),
        (
            {
                "classes.txt": "cat\n",
                **IMAGES,
                **{f"labels/{n}.txt": "0 .5 .5 .1 .1" for n in range(10)},
            },
            "yolo",
        ),
        (
            {
                **{f"Annotations/{n}.xml": XML.format(stem=n, name="cat") for n in range(10)},
                **{f"JPEGImages/{n}.jpg": "" for n in range(10)},
            },
            "voc",
        ),
    ],
)
def test_a_data_set_without_splits_is_cut_into_two_parts(
    work: Path, files: Mapping[str, str], format_name: str
) -> None:
    make(work, files)
    main(["init", "data", "--preset", "bb"])
    train, val = read("cache_train"), read("cache_val")
    assert (train.format, val.vocabulary) == (format_name, train.vocabulary)
    assert (len(train.records), len(val.records)) == (8, 2)
    assert train.images_dir is not None
    names = [one.file_name for part in (train, val) for one in part.records]
    assert {name.rpartition("/")[2] for name in names} == set(TEN)
    assert all((train.images_dir / name).is_file() for name in names)
    evaluation = parse_evaluation(["--config", "runs/data/evaluate.yaml"])
    assert evaluation.cache == written("cache_val")["output_dir"] == written("train")["data"]["val"]


@pytest.mark.parametrize("preset", ["bb", "bl", "bl336"])
def test_every_printed_command_reads_its_configuration(
    work: Path, preset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make(work, {"boxes.csv": csv_rows(TEN), **IMAGES})
    main(["init", "data", "--preset", preset])
    lines = capsys.readouterr().out.splitlines()
    commands = [line.split()[1:] for line in lines if line.startswith("  regionspot ")]
    assert [command[0] for command in commands] == ["cache", "cache", "fit", "evaluate"]
    for command in commands:
        with pytest.raises(SystemExit) as exit_info:
            main([*command, "--print_config"])
        assert exit_info.value.code == 0
        read = yaml.safe_load(capsys.readouterr().out)
        group = "data" if command[0] == "fit" else "models"
        assert read[group].items() >= yaml.safe_load(Path(command[-1]).read_text())[group].items()


def test_a_split_of_the_data_set_is_used(work: Path) -> None:
    content = {"names": ["cat"], "train": "../train/images", "val": "../valid/images"}
    label = "0 .5 .5 .1 .1"
    make(
        work,
        {
            "data.yaml": yaml.safe_dump(content),
            **{f"train/images/{n}.jpg": "" for n in range(3)},
            **{f"train/labels/{n}.txt": label for n in range(3)},
            **{f"valid/images/{n}.jpg": "" for n in range(2)},
            **{f"valid/labels/{n}.txt": label for n in range(2)},
        },
    )
    main(["init", "data", "--preset", "bb"])
    assert [len(read(f"cache_{name}").records) for name in ("train", "val")] == [3, 2]
    assert not Path("runs/data/val_images.txt").exists()


def test_two_coco_files_are_train_and_val(work: Path) -> None:
    make(
        work,
        {
            "train/_annotations.coco.json": coco(TEN[:3]),
            "valid/_annotations.coco.json": coco(TEN[3:5]),
            "test/_annotations.coco.json": coco(TEN[5:]),
            **{f"train/{name}": "" for name in TEN[:3]},
            **{f"valid/{name}": "" for name in TEN[3:5]},
        },
    )
    main(["init", "data", "--preset", "bb"])
    assert written("cache_train")["annotations"]["images_dir"] == "data/train"
    assert written("cache_val")["annotations"]["path"] == "data/valid/_annotations.coco.json"


def test_two_csv_files_share_their_classes(work: Path) -> None:
    make(
        work,
        {
            "train.csv": csv_rows(TEN[:2], "dog") + "2.jpg,1,1,9,9,cow\n",
            "val.csv": csv_rows(TEN[3:5], "cow"),
            **IMAGES,
        },
    )
    main(["init", "data", "--preset", "bb"])
    assert read("cache_val").vocabulary.names == read("cache_train").vocabulary.names
    assert read("cache_val").vocabulary.names == ("dog", "cow")


def test_the_same_seed_holds_out_the_same_images(work: Path) -> None:
    make(work, {"boxes.csv": csv_rows(TEN), **IMAGES})
    path = Path("runs/data/val_images.txt")
    main(["init", "data", "--preset", "bb"])
    first = path.read_text()
    main(["init", "data", "--preset", "bb"])  # writes the same files again
    (work / "boxes.csv").write_text(csv_rows(TEN[::-1]))
    main(["init", "data", "--preset", "bb", "--output_dir", "other"])
    again = Path("other/val_images.txt").read_text()
    assert sorted(again.split()) == sorted(first.split())
    main(["init", "data", "--preset", "bb", "--output_dir", "third", "--seed", "1"])
    assert Path("third/val_images.txt").read_text() != first


def test_an_edited_file_is_not_overwritten(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(work, {"boxes.csv": csv_rows(TEN), **IMAGES})
    main(["init", "data", "--preset", "bb"])
    path = Path("runs/data/train.yaml")
    path.write_text("mine")
    Path("runs/data/evaluate.yaml").unlink()
    with pytest.raises(SystemExit) as exit_info:
        main(["init", "data", "--preset", "bb"])
    assert exit_info.value.code == 2
    assert "train.yaml exists and differs" in capsys.readouterr().err
    assert path.read_text() == "mine"
    assert not Path("runs/data/evaluate.yaml").exists()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.jpg": "", "b.md": ""}, "no annotations that are known (1 .jpg, 1 .md). Wanted"),
        ({"a.csv": "x,y\n"}, "no annotations that are known (1 .csv)"),
        ({"a.csv": csv_rows(TEN), "b.json": coco(TEN)}, "several formats (csv: data/a.csv; coco:"),
        ({"a.csv": csv_rows(TEN), "b.csv": csv_rows(TEN)}, "several annotation files: data/a.csv,"),
        ({"a.csv": csv_rows(TEN)}, "no folder in data has the images of data/a.csv, such as 0.jpg"),
        ({"a.csv": csv_rows(TEN[:1]), **IMAGES}, "a has 1 images with regions; wanted 2"),
    ],
)
def test_what_is_missing_is_said(
    work: Path, files: Mapping[str, str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make(work, files)
    with pytest.raises(SystemExit) as exit_info:
        main(["init", "data", "--preset", "bb"])
    assert exit_info.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert not Path("runs").exists()


def test_a_named_file_and_format_end_the_doubt(work: Path) -> None:
    make(work, {"a.csv": csv_rows(TEN), "b.csv": csv_rows(TEN), "c.json": coco(TEN), **IMAGES})
    main(["init", "data", "--preset", "bb", "--annotations", "data/b.csv"])
    assert written("cache_train")["annotations"]["path"] == "data/b.csv"
    main(["init", "data", "--preset", "bb", "--format", "coco", "--output_dir", "other"])


def test_a_larger_data_set_is_trained_for_longer_but_fewer_passes(work: Path) -> None:
    lengths = []
    for number in (100, 10_000):
        names = [f"{n}.jpg" for n in range(number)]
        make(work, {"boxes.csv": csv_rows(names), **{f"images/{n}": "" for n in names[:3]}})
        main(["init", "data", "--preset", "bb", "--output_dir", f"runs/of{number}"])
        config = yaml.safe_load(Path(f"runs/of{number}/train.yaml").read_text())
        lengths.append(config["max_images"])
        assert config["data"]["batch_size"] == 32
        assert config["model"]["head"]["ffn_dim"] == 2048
    assert lengths[1] == pytest.approx(10 * lengths[0], rel=0.01)
