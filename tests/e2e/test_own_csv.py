"""A person's own boxes in a plain CSV file, by the README's three commands, to a named region."""

import csv
import json
import re
from pathlib import Path

import pytest

from regionspot.cli.main import main
from regionspot.toy import generate_world

ROOT = Path(__file__).parents[2]


def write_csv(world: Path, split: str) -> Path:
    """Rewrite a toy data set as a person would keep it: one line a box."""
    content = json.loads((world / f"{split}.json").read_text(encoding="utf-8"))
    names = {one["id"]: one["name"] for one in content["categories"]}
    path = world / f"{split}.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "x1", "y1", "x2", "y2", "label"])
        for one in content["annotations"]:
            x, y, width, height = one["bbox"]
            image = f"{split}/{one['image_id']:012d}.jpg"
            writer.writerow([image, x, y, x + width, y + height, names[one["category_id"]]])
    return path


def test_a_csv_becomes_a_head_that_knows_its_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    world, cache, run = tmp_path / "world", tmp_path / "cache", tmp_path / "run"
    generate_world(world, seed=3, num_val=1, num_train=12)
    path = write_csv(world, "toy365")
    main(
        [
            *("cache", "--annotations.format", "csv", "--annotations.path", str(path)),
            *("--annotations.images_dir", str(world), "--models.preset", "toy"),
            *("--templates", "[single]", "--output_dir", str(cache), "--device", "cpu"),
        ]
    )
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    num_images = len({row["image"] for row in rows})
    counted = f"{num_images} images, {len(rows)} regions of {len(rows)} annotations"
    assert counted in capsys.readouterr().out
    main(
        [
            *("fit", "--config", "configs/train/own.yaml", "--data.train", f"[{cache}]"),
            *("--data.val", str(cache), "--max_images", "48", "--data.batch_size", "4"),
            *("--trainer.default_root_dir", str(run), "--trainer.val_check_interval", "3"),
            *("--trainer.accelerator", "cpu", "--trainer.devices", "1"),
            *("--trainer.precision", "32-true"),
            *("--model.schedule.warmup_images", "4", "--data.templates", "single"),
            *("--trainer.enable_progress_bar", "false"),
            *("--trainer.enable_model_summary", "false"),
        ]
    )
    last_line = capsys.readouterr().out.splitlines()[-1]
    assert re.search(r"Loss [\d.]+, top-1 [\d.]+%, AP [\d.]+\. The trained head is in", last_line)
    report = tmp_path / "report"
    main(
        [
            *("evaluate", "--cache", str(cache), "--checkpoints", f"[{run}]"),
            *("--images_dir", str(world), "--output_dir", str(report), "--device", "cpu"),
            *("--templates", "single"),
        ]
    )
    metrics = json.loads((report / "metrics.json").read_text(encoding="utf-8"))
    figures = metrics["methods"]["fusion_head"]
    assert metrics["metric"] == "coco"
    assert metrics["data"]["num_regions"] == len(rows)
    assert f"AP {figures['AP']:.1f}. The trained" in last_line, "validation is the same evaluation"
    assert {"AP50", "AP75", "AR", "top1_accuracy", "top5_accuracy", "mean_class_accuracy"} <= set(
        figures
    )
    assert "APr" not in figures
    page = (report / "report.html").read_text(encoding="utf-8")
    assert page.count("<img") > num_images, "pictures, their mistakes and charts"
    assert "COCO AP" in page
    assert "LVIS AP. LVIS labels" not in page
    assert (report / "named_regions.jpg").is_file()
    box = ",".join(rows[0][side] for side in ("x1", "y1", "x2", "y2"))
    capsys.readouterr()
    # The names of the training come with the head: CLIP's text encoder is not asked.
    monkeypatch.setattr("regionspot.backbones.clip.embed_texts", None)
    main(
        [
            *("recognize", str(world / rows[0]["image"]), "--model", str(run)),
            *("--boxes", box, "--top_k", "1", "--device", "cpu"),
        ]
    )
    named = capsys.readouterr().out.splitlines()[1].split()
    assert " ".join(named[5:-1]) in {row["label"] for row in rows}
