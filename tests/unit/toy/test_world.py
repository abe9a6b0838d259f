"""Worlds: reproducible, readable by LVIS's own library, true to their masks, fair."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lvis import LVIS
from PIL import Image
from pycocotools import mask as coco_mask

from helpers.files import tree
from regionspot.core.errors import ConfigError
from regionspot.toy import (
    TRAINING_SPLITS,
    VALIDATION_SPLIT,
    WorldArguments,
    generate_world,
    held_out_classes,
    world_is_complete,
)

SPLITS = (*TRAINING_SPLITS, VALIDATION_SPLIT)
NUM_VAL, NUM_TRAIN = 15, 12


def read(world_dir: Path, split: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((world_dir / f"{split}.json").read_text())
    return content


def test_the_same_seed_gives_the_same_bytes(world_dir: Path, tmp_path: Path) -> None:
    generate_world(tmp_path, seed=3, num_val=NUM_VAL, num_train=NUM_TRAIN)
    assert tree(tmp_path) == tree(world_dir)


def test_another_seed_gives_other_images(world_dir: Path, tmp_path: Path) -> None:
    generate_world(tmp_path, seed=4, num_val=3, num_train=1)
    name = "val/000000900000.jpg"
    assert (tmp_path / name).read_bytes() != (world_dir / name).read_bytes()


def test_a_larger_world_begins_with_the_images_of_a_smaller_one(
    world_dir: Path, tmp_path: Path
) -> None:
    generate_world(tmp_path, seed=3, num_val=2, num_train=1)
    for name in ("val/000000900001.jpg", "toyoi/000000200000.jpg"):
        assert (tmp_path / name).read_bytes() == (world_dir / name).read_bytes()


@pytest.mark.slow
def test_the_number_of_processes_changes_nothing(world_dir: Path, tmp_path: Path) -> None:
    generate_world(tmp_path, seed=3, num_val=NUM_VAL, num_train=NUM_TRAIN, num_processes=2)
    assert tree(tmp_path) == tree(world_dir)


@pytest.mark.parametrize("split", SPLITS)
def test_lvis_reads_every_split(world_dir: Path, split: str) -> None:
    lvis = LVIS(str(world_dir / f"{split}.json"))
    images = lvis.load_imgs(lvis.get_img_ids())
    assert len(images) == (NUM_VAL if split == VALIDATION_SPLIT else NUM_TRAIN)
    category_ids = {category["id"] for category in lvis.load_cats(lvis.get_cat_ids())}
    for annotation in lvis.load_anns(lvis.get_ann_ids()):
        assert annotation["category_id"] in category_ids
        assert annotation["image_id"] in lvis.imgs
        assert lvis.ann_to_mask(annotation).any()


@pytest.mark.parametrize("split", SPLITS)
def test_images_have_the_size_that_is_written_down(world_dir: Path, split: str) -> None:
    for image in read(world_dir, split)["images"]:
        below_root = "/".join(image["coco_url"].split("/")[-2:])
        with Image.open(world_dir / below_root) as picture:
            assert picture.size == (image["width"], image["height"])
            assert picture.format == "JPEG"
            assert picture.mode == "RGB"


@pytest.mark.parametrize("split", SPLITS)
def test_boxes_and_areas_are_those_of_the_masks(world_dir: Path, split: str) -> None:
    annotations = read(world_dir, split)["annotations"]
    assert annotations
    for annotation in annotations:
        encoded = annotation["segmentation"]
        assert annotation["bbox"] == coco_mask.toBbox(encoded).tolist()
        assert annotation["area"] == coco_mask.area(encoded) >= 25


@pytest.mark.parametrize("split", SPLITS)
def test_masks_of_an_image_do_not_overlap(world_dir: Path, split: str) -> None:
    content = read(world_dir, split)
    for image in content["images"]:
        cover = np.zeros((image["height"], image["width"]), np.int64)
        for annotation in content["annotations"]:
            if annotation["image_id"] == image["id"]:
                cover += coco_mask.decode(annotation["segmentation"])
        assert cover.max() <= 1


def test_ids_are_unique(world_dir: Path) -> None:
    image_ids = [image["id"] for split in SPLITS for image in read(world_dir, split)["images"]]
    assert len(set(image_ids)) == len(image_ids)
    for split in SPLITS:
        annotation_ids = [one["id"] for one in read(world_dir, split)["annotations"]]
        assert len(set(annotation_ids)) == len(annotation_ids)


def test_training_sources_have_40_90_and_144_classes_and_validation_all(world_dir: Path) -> None:
    sizes = {split: len(read(world_dir, split)["categories"]) for split in SPLITS}
    assert sizes == {"toy365": 40, "toyoi": 90, "toyv3d": 144, "val": 164}


def test_held_out_classes_are_in_no_training_source(world_dir: Path) -> None:
    held_out = set(held_out_classes())
    assert len(held_out) == 20
    for split in TRAINING_SPLITS:
        assert not held_out & {one["name"] for one in read(world_dir, split)["categories"]}
    assert held_out <= {one["name"] for one in read(world_dir, VALIDATION_SPLIT)["categories"]}


def test_a_name_has_the_same_id_everywhere(world_dir: Path) -> None:
    pairs = {
        (one["name"], one["id"]) for split in SPLITS for one in read(world_dir, split)["categories"]
    }
    assert len(pairs) == 164


def test_negative_categories_are_40_that_no_annotation_of_the_image_has(world_dir: Path) -> None:
    content = read(world_dir, VALIDATION_SPLIT)
    for image in content["images"]:
        present = {
            one["category_id"] for one in content["annotations"] if one["image_id"] == image["id"]
        }
        negative = image["neg_category_ids"]
        assert len(set(negative)) == len(negative) == 40
        assert not present & set(negative)
        assert not set(image["not_exhaustive_category_ids"]) & set(negative)


def test_frequencies_follow_lvis_counted_over_the_training_sources(world_dir: Path) -> None:
    images_of: dict[int, set[int]] = {}
    instances_of: Counter[int] = Counter()
    for split in TRAINING_SPLITS:
        for one in read(world_dir, split)["annotations"]:
            images_of.setdefault(one["category_id"], set()).add(one["image_id"])
            instances_of[one["category_id"]] += 1
    for category in read(world_dir, VALIDATION_SPLIT)["categories"]:
        count = len(images_of.get(category["id"], ()))
        assert category["image_count"] == count
        assert category["instance_count"] == instances_of[category["id"]]
        border = "r" if count <= 10 else "c" if count <= 100 else "f"
        assert category["frequency"] == border
        assert {"synset", "synonyms", "def"} <= category.keys()


def test_progress_counts_up_to_all_images(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    generate_world(
        tmp_path,
        seed=0,
        num_val=2,
        num_train=1,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(1, 5), (2, 5), (3, 5), (5, 5)]


def test_a_finished_world_is_recognised_by_its_arguments(world_dir: Path, tmp_path: Path) -> None:
    wanted = WorldArguments(seed=3, num_val=NUM_VAL, num_train=NUM_TRAIN)
    assert world_is_complete(world_dir, wanted)
    assert not world_is_complete(world_dir, WorldArguments(seed=3))
    assert not world_is_complete(tmp_path, wanted)


def test_an_interrupted_world_does_not_look_finished(tmp_path: Path) -> None:
    arguments = WorldArguments(seed=1, num_val=1, num_train=1)
    generate_world(tmp_path, seed=1, num_val=1, num_train=1)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate_world(tmp_path, seed=1, num_val=1, num_train=1, on_progress=interrupt)
    assert not world_is_complete(tmp_path, arguments)


def test_a_folder_of_something_else_is_refused_and_not_touched(tmp_path: Path) -> None:
    (tmp_path / "val.json").write_text("the only copy")
    with pytest.raises(ConfigError, match="no toy world, and not empty either: it holds val.json"):
        generate_world(tmp_path, seed=1, num_val=1, num_train=1)
    assert [path.name for path in tmp_path.iterdir()] == ["val.json"]
    assert (tmp_path / "val.json").read_text() == "the only copy"


@pytest.mark.parametrize(
    ("seed", "num_val", "num_train", "message"),
    [
        (-1, 1, 1, "seed is -1; give 0 or more"),
        (0, 0, 1, "num_val is 0; give 1 to 100000"),
        (0, 1, 100_001, "num_train is 100001"),
    ],
)
def test_numbers_that_make_no_world_are_refused(
    tmp_path: Path, seed: int, num_val: int, num_train: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        generate_world(tmp_path, seed=seed, num_val=num_val, num_train=num_train)
    assert not list(tmp_path.iterdir())
