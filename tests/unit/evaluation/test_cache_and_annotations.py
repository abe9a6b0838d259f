"""A cache and the file that it is scored by have to be of the same images and class names."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest

from regionspot.cache import FeatureCache
from regionspot.core.errors import AnnotationError
from regionspot.data import CachedRegions
from regionspot.scoring import LvisGroundTruth, check_same_data
from regionspot.scoring.callback import ApValidation

Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def cache_dir(make_cache: Callable[..., Path]) -> Path:
    """A cache of the categories 1 lemon, 2 tennis ball, 3 sea egg and the images 100, 101, 102."""
    return make_cache(num_images=3)


def swap_two_names(content: dict[str, Any]) -> None:
    first, second, _ = content["categories"]
    first["name"], second["name"] = second["name"], first["name"]


def rename(content: dict[str, Any]) -> None:
    content["categories"][2]["name"] = "sea urchin"


def change_the_case(content: dict[str, Any]) -> None:
    content["categories"][0]["name"] = "Lemon"


def count_from_zero(content: dict[str, Any]) -> None:
    for category in content["categories"]:
        category["id"] -= 1
    for region in content["annotations"]:
        region["category_id"] -= 1


def remove_a_class(content: dict[str, Any]) -> None:
    del content["categories"][1]


def remove_an_image(content: dict[str, Any]) -> None:
    del content["images"][0]


def add_a_class_and_an_image(content: dict[str, Any]) -> None:
    content["categories"].append({"id": 9, "name": "moon", "frequency": "r"})
    content["images"].append({**content["images"][0], "id": 1})


def reformat(content: dict[str, Any]) -> None:
    content["info"] = "the same, written anew"


OTHER_DATA = [
    (
        swap_two_names,
        "0 images and 2 categories",
        "category 1 is 'lemon' in the cache and 'tennis ball' in the file, where 'lemon' is 2",
    ),
    (rename, "1 categories", "category 3 is 'sea egg' in the cache and 'sea urchin' in the file"),
    (change_the_case, "1 categories", "category 1 is 'lemon' in the cache and 'Lemon' in the file"),
    (count_from_zero, "3 categories", "category 3 is 'sea egg' in the cache and not listed in"),
    (remove_a_class, "1 categories", "category 2 is 'tennis ball' in the cache and not listed in"),
    (remove_an_image, "1 images and 0 categories", "image 100"),
]


def trainer_of(cache_dir: Path) -> pl.Trainer:
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.datamodule = CachedRegions([cache_dir], cache_dir)  # type: ignore[attr-defined]
    return trainer


def changed(path: Path, change: Change) -> Path:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(("change", "count", "example"), OTHER_DATA)
def test_other_data_are_refused_with_the_first_differences(
    cache_dir: Path,
    annotations_of: Callable[[Path], Path],
    change: Change,
    count: str,
    example: str,
) -> None:
    path = changed(annotations_of(cache_dir), change)
    with (
        FeatureCache.open(cache_dir) as cache,
        pytest.raises(AnnotationError, match=r"Set --annotations to the file") as caught,
    ):
        check_same_data(cache, LvisGroundTruth.read(path), option="--annotations")
    assert count in str(caught.value)
    assert example in str(caught.value)


@pytest.mark.parametrize("change", [add_a_class_and_an_image, reformat])
def test_further_images_and_classes_do_no_harm(
    cache_dir: Path, annotations_of: Callable[[Path], Path], change: Change
) -> None:
    path = changed(annotations_of(cache_dir), change)
    with FeatureCache.open(cache_dir) as cache:
        (remark,) = check_same_data(cache, LvisGroundTruth.read(path), option="--annotations")
    assert "is not the very file that" in remark


def test_training_tells_what_is_not_scored(
    cache_dir: Path, annotations_of: Callable[[Path], Path], caplog: pytest.LogCaptureFixture
) -> None:
    path = changed(annotations_of(cache_dir), lambda content: content["annotations"][0].pop("bbox"))
    ApValidation(path).setup(trainer_of(cache_dir), pl.LightningModule(), "fit")
    assert "not scored: 1 annotations without four finite numbers in bbox" in caplog.text


def test_training_is_refused_before_its_first_step(
    cache_dir: Path, annotations_of: Callable[[Path], Path]
) -> None:
    path = changed(annotations_of(cache_dir), swap_two_names)
    with pytest.raises(AnnotationError, match=r"'lemon' in the cache.*Set --val_annotations to"):
        ApValidation(path).setup(trainer_of(cache_dir), pl.LightningModule(), "fit")
