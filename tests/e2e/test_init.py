"""``regionspot init``: from a folder of one's own to a report, by the commands that it prints."""

import json
import shlex
from pathlib import Path

import pytest
import yaml

from regionspot.cli.main import main
from regionspot.toy import generate_world


def write_yolo(root: Path, num_images: int) -> None:
    """Rewrite toy images as a YOLO data set without a validation split."""
    generate_world(root / "world", seed=3, num_val=num_images, num_train=1)
    content = json.loads((root / "world" / "val.json").read_text(encoding="utf-8"))
    sizes = {one["id"]: (one["width"], one["height"]) for one in content["images"]}
    used = sorted({one["category_id"] for one in content["annotations"]})
    names = {one["id"]: one["name"] for one in content["categories"]}
    data = root / "my data"
    for folder in ("images", "labels"):
        (data / folder).mkdir(parents=True)
    for image_id in sizes:
        name = f"{image_id:012d}.jpg"
        (root / "world" / "val" / name).rename(data / "images" / name)
    for one in content["annotations"]:
        width, height = sizes[one["image_id"]]
        x, y, w, h = one["bbox"]
        box = [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height]
        with (data / "labels" / f"{one['image_id']:012d}.txt").open("a") as file:
            file.write(f"{used.index(one['category_id'])} {' '.join(map(str, box))}\n")
    config = {"path": ".", "train": "images", "names": [names[number] for number in used]}
    (data / "data.yaml").write_text(yaml.safe_dump(config))


def printed_commands(text: str) -> list[list[str]]:
    lines = [line.strip() for line in text.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("regionspot ")]


@pytest.mark.slow
def test_the_printed_commands_end_in_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_yolo(tmp_path, 12)
    monkeypatch.chdir(tmp_path)
    main(["init", "my data", "--preset", "toy"])
    commands = printed_commands(capsys.readouterr().out)
    assert [command[0] for command in commands] == ["cache", "cache", "fit", "evaluate"]
    for command in commands:
        main(command)
    output = tmp_path / "runs" / "my data"
    metrics = json.loads((output / "evaluation" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["data"]["num_images"] == 2
    assert set(metrics["methods"]) == {"fusion_head", "clip_box_crop"}
    assert (output / "evaluation" / "report.html").is_file()
