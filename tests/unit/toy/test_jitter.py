"""Jittered boxes are the annotated ones with sides moved no further than allowed."""

import json
from pathlib import Path

import numpy as np
import pytest

from regionspot.core.errors import ConfigError
from regionspot.toy import generate_world, write_jittered_boxes


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("jitter") / "world"
    generate_world(folder, seed=4, num_val=12, num_train=1)
    return folder


@pytest.mark.parametrize("percent", [1, 20, 45])
def test_sides_move_by_no_more_than_asked_and_stay_in_the_image(
    world: Path, tmp_path: Path, percent: int
) -> None:
    write_jittered_boxes(world / "val.json", tmp_path / "boxes.json", percent=percent)
    truth = json.loads((world / "val.json").read_text())
    rows = json.loads((tmp_path / "boxes.json").read_text())
    assert [row["image_id"] for row in rows] == [one["image_id"] for one in truth["annotations"]]
    exact = np.array([one["bbox"] for one in truth["annotations"]], float)
    found = np.array([row["bbox"] for row in rows], float)
    sides = exact[:, 2:]
    low = np.abs(found[:, :2] - exact[:, :2]) / sides
    high = np.abs(found[:, :2] + found[:, 2:] - exact[:, :2] - sides) / sides
    most = max(low.max(), high.max())
    assert 0.6 * percent / 100 < most <= percent / 100 + 0.02 / sides.min()
    assert (found[:, 2:] > 0).all()
    sizes = {image["id"]: (image["width"], image["height"]) for image in truth["images"]}
    limits = np.array([sizes[row["image_id"]] for row in rows])
    assert (found[:, :2] >= 0).all()
    assert (found[:, :2] + found[:, 2:] <= limits + 0.011).all()


def test_the_same_boxes_come_again(world: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_jittered_boxes(world / "val.json", tmp_path / name, percent=20)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("percent", [0, 46])
def test_other_percentages_are_refused(world: Path, tmp_path: Path, percent: int) -> None:
    with pytest.raises(ConfigError, match="wanted 1 to 45"):
        write_jittered_boxes(world / "val.json", tmp_path / "boxes.json", percent=percent)
