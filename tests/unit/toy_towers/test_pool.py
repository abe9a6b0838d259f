"""The pool of training scenes: the same whoever renders it, consistent, finished or refused."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from regionspot.toy import SETTINGS, look_of, vocabulary
from toy_towers.pool import Pool, generate_pool, open_pool, squash

FILES = ["classes.npy", "images.npy", "instances.npy", "pool.json", "settings.npy"]


def test_the_number_of_processes_changes_nothing_and_a_hundred_is_the_unit(
    pool: Pool, tmp_path: Path
) -> None:
    generate_pool(tmp_path / "one", num_images=101, seed=5, num_processes=1)
    generate_pool(tmp_path / "two", num_images=200, seed=5, num_processes=2)
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == FILES
    for name in FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    facts = json.loads((tmp_path / "one" / "pool.json").read_text())
    assert facts == {"num_images": 200, "seed": 5, "size": 128}
    larger = open_pool(tmp_path / "two")
    assert larger.images.shape == (200, 128, 128, 3)
    np.testing.assert_array_equal(larger.images[:100], pool.images)  # a smaller pool begins it
    np.testing.assert_array_equal(larger.classes[:100], pool.classes)
    assert (larger.images[100:] != pool.images).any()


def test_another_seed_gives_other_scenes(pool: Pool, tmp_path: Path) -> None:
    generate_pool(tmp_path, num_images=100, seed=6)
    assert not (open_pool(tmp_path).images == pool.images).all(axis=(1, 2, 3)).any()


def test_every_scene_has_two_to_six_classes_and_its_instances_are_among_them(pool: Pool) -> None:
    assert pool.images.shape == (100, 128, 128, 3)
    for instances, classes in zip(pool.instances, pool.classes, strict=True):
        num = int((classes >= 0).sum())
        assert 2 <= num <= 6
        assert (classes[num:] == -1).all()
        assert classes.max() < 164
        assert instances.max() <= num


def test_context_classes_are_in_their_setting(pool: Pool) -> None:
    num_context = 0
    for classes, setting in zip(pool.classes, pool.settings, strict=True):
        for index in classes[classes >= 0]:
            needed = look_of(vocabulary()[index]).setting
            assert needed in {None, SETTINGS[setting]}
            num_context += needed is not None
    assert num_context > 10


def test_an_opened_pool_cannot_be_changed(pool: Pool) -> None:
    with pytest.raises(ValueError, match="read-only"):
        pool.images[0, 0, 0, 0] = 1


@pytest.mark.parametrize("left", [[], ["images.npy", "instances.npy", "classes.npy"]])
def test_a_pool_that_was_not_finished_is_refused_with_the_command(
    pool: Pool, tmp_path: Path, left: list[str]
) -> None:
    for name in left:
        np.save(tmp_path / name, np.zeros(3))
    command = f"PYTHONPATH=tools python -m toy_towers.pool --output_dir {tmp_path}"
    with pytest.raises(FileNotFoundError, match=re.escape(command)):
        open_pool(tmp_path)


def test_squashing_down_by_whole_numbers_averages_blocks() -> None:
    image = np.random.default_rng(0).integers(0, 256, (24, 48, 3), dtype=np.uint8)
    means = image.reshape(12, 2, 12, 4, 3).mean(axis=(1, 3))
    assert np.abs(squash(image, 12) - means).max() <= 0.5 + 1e-6


def test_squashing_up_is_bilinear() -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 20, 3), dtype=np.uint8)
    levels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    theirs = F.interpolate(levels, (32, 32), mode="bilinear", align_corners=False)[0]
    ours = squash(image, 32)
    assert ours.dtype == np.uint8
    assert np.abs(ours - theirs.permute(1, 2, 0).numpy()).max() <= 1
