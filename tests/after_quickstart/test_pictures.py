"""The picture of named regions shows what the head of ``make quickstart`` predicts.

It holds the names that it shows as text too, in its comment. The references are predictions.json
and the annotations of the world.
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
RUN = ROOT / "runs" / "quickstart"
MADE, SHOWN = RUN / "named_regions.jpg", ROOT / "docs" / "images" / "named_regions.jpg"
# The first three of eight images at even distances among 500: numbers 0, 71 and 143.
IMAGE_IDS = [900000, 900071, 900143]
MAX_BYTES = 200_000
SHARE_OF_SAME_NAMES = 0.75
"""Training differs a little from one processor to another."""
LINE = re.compile(r"\d+[\u2713\u2717] (.+) \d+%(?: \(true name: (.+)\))?")

pytestmark = pytest.mark.quickstart

Names = dict[int, list[tuple[str, str]]]
"""Predicted and true name of each region, in order, by image id."""


def names_in(path: Path) -> Names:
    with Image.open(path) as picture:
        lines = picture.info["comment"].decode().splitlines()
    names: Names = {}
    for line in lines:
        title = re.match(r"Image (\d+): ", line)
        if title is not None:
            names[int(title[1])] = []
            continue
        region = LINE.fullmatch(line)
        assert region is not None, line
        names[list(names)[-1]].append((region[1], region[2] or region[1]))
    return names


def names_in_the_run() -> Names:
    world = json.loads((RUN / "world" / "val.json").read_text(encoding="utf-8"))
    class_names = {one["id"]: one["name"] for one in world["categories"]}
    wanted = set(IMAGE_IDS)
    rows = json.loads((RUN / "predictions.json").read_text(encoding="utf-8"))
    predictions = [row for row in rows if row["image_id"] in wanted]
    names: Names = {image_id: [] for image_id in IMAGE_IDS}
    for region in world["annotations"]:
        if region["image_id"] in wanted:
            own = [
                row
                for row in predictions
                if row["image_id"] == region["image_id"]
                and np.allclose(row["bbox"], region["bbox"], atol=0.01)
            ]
            best = max(own, key=lambda row: float(row["score"]))
            predicted, true = (class_names[one["category_id"]] for one in (best, region))
            names[region["image_id"]].append((predicted, true))
    return names


def test_the_picture_shows_the_predictions_of_the_run() -> None:
    assert MADE.stat().st_size <= MAX_BYTES
    assert names_in(MADE) == names_in_the_run()


def test_readme_shows_that_picture() -> None:
    refresh = "docs/images/named_regions.jpg is out of date: run `make pictures`"
    assert "docs/images/named_regions.jpg" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert SHOWN.stat().st_size <= MAX_BYTES
    shown, made = names_in(SHOWN), names_in(MADE)
    assert list(shown) == IMAGE_IDS, refresh
    pairs = [
        (one, other)
        for image_id in IMAGE_IDS
        for one, other in zip(shown[image_id], made[image_id], strict=True)
    ]
    assert [one[1] for one, _ in pairs] == [other[1] for _, other in pairs], refresh
    same = sum(one == other for one, other in pairs)
    assert same >= SHARE_OF_SAME_NAMES * len(pairs), refresh


def test_readme_shows_the_same_photos() -> None:
    """Photos come first, names below: the upper half of two sheets of the same photos agree."""
    pixels = []
    for path in (SHOWN, MADE):
        with Image.open(path) as picture:
            photos = picture.convert("L").crop((0, 0, picture.width, picture.width // 3))
            pixels.append(np.asarray(photos, np.float32))
    assert pixels[0].shape == pixels[1].shape
    assert np.abs(pixels[0] - pixels[1]).mean() < 8
