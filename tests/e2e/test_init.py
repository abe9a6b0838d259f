"""``regionspot init``: from a folder of one's own to a report, by the commands that it prints."""

import json
import shlex
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import yaml

from regionspot.cli.main import main
from regionspot.toy import generate_world


def write_yolo(data: Path, world: Path) -> None:
    """Rewrite a toy world as a YOLO data set without a validation split."""
    content = json.loads((world / "val.json").read_text(encoding="utf-8"))
    sizes = {one["id"]: (one["width"], one["height"]) for one in content["images"]}
    used = sorted({one["category_id"] for one in content["annotations"]})
    names = {one["id"]: one["name"] for one in content["categories"]}
    (world / "val").rename(data / "images")
    (data / "labels").mkdir()
    for one in content["annotations"]:
        width, height = sizes[one["image_id"]]
        x, y, w, h = one["bbox"]
        box = [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height]
        with (data / "labels" / f"{one['image_id']:012d}.txt").open("a") as file:
            file.write(f"{used.index(one['category_id'])} {' '.join(map(str, box))}\n")
    config = {"path": ".", "train": "images", "names": [names[number] for number in used]}
    (data / "data.yaml").write_text(yaml.safe_dump(config))


def write_voc(data: Path, world: Path) -> None:
    """Rewrite a toy world as a Pascal VOC data set with the lists of a split."""
    content = json.loads((world / "val.json").read_text(encoding="utf-8"))
    names = {one["id"]: one["name"] for one in content["categories"]}
    (world / "val").rename(data / "JPEGImages")
    (data / "Annotations").mkdir()
    stems = [f"{image['id']:012d}" for image in content["images"]]
    for stem, image in zip(stems, content["images"], strict=True):
        root = ET.Element("annotation")
        ET.SubElement(root, "filename").text = f"{stem}.jpg"
        add_texts(root, "size", {"width": image["width"], "height": image["height"], "depth": 3})
        for one in content["annotations"]:
            if one["image_id"] == image["id"]:
                x, y, w, h = one["bbox"]
                corners = {"xmin": x + 1, "ymin": y + 1, "xmax": x + w, "ymax": y + h}
                thing = ET.SubElement(root, "object")
                ET.SubElement(thing, "name").text = names[one["category_id"]]
                add_texts(thing, "bndbox", corners)
        ET.ElementTree(root).write(data / "Annotations" / f"{stem}.xml")
    lists = data / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("\n".join(stems[:-2]))
    (lists / "val.txt").write_text("\n".join(stems[-2:]))


def add_texts(parent: ET.Element, name: str, texts: Mapping[str, float]) -> None:
    group = ET.SubElement(parent, name)
    for tag, value in texts.items():
        ET.SubElement(group, tag).text = str(value)


def printed_commands(text: str) -> list[list[str]]:
    lines = [line.strip() for line in text.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("regionspot ")]


@pytest.mark.slow
@pytest.mark.parametrize("write", [write_yolo, write_voc])
def test_the_printed_commands_end_in_a_report(
    write: Callable[[Path, Path], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    generate_world(tmp_path / "world", seed=3, num_val=12, num_train=1)
    (tmp_path / "my data").mkdir()
    write(tmp_path / "my data", tmp_path / "world")
    monkeypatch.chdir(tmp_path)
    main(["init", "my data", "--preset", "toy"])
    commands = printed_commands(capsys.readouterr().out)
    assert [command[0] for command in commands] == ["cache", "cache", "fit", "evaluate"]
    for command in commands:
        # A tenth of the written length, which ends in the first validation.
        main([*command, *(["--max_images", "110"] if command[0] == "fit" else [])])
    output = tmp_path / "runs" / "my data"
    metrics = json.loads((output / "evaluation" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["data"]["num_images"] == 2
    assert set(metrics["methods"]) == {"fusion_head", "clip_box_crop"}
    assert (output / "evaluation" / "report.html").is_file()
