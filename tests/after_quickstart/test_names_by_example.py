"""Names by example, alone and beside words, and unknown regions, on what the quickstart leaves.

Figures differ a little from one processor to another: bounds are far from what was measured.
"""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from regionspot import FeatureCache, Regions, RegionSpot

QUICKSTART = Path(__file__).parents[2] / "runs" / "quickstart"
WORLD = QUICKSTART / "world" / "val"

pytestmark = pytest.mark.quickstart


@pytest.fixture(scope="module")
def model() -> RegionSpot:
    return RegionSpot.from_pretrained(QUICKSTART, device="cpu")


@pytest.fixture(scope="module")
def val() -> FeatureCache:
    return FeatureCache.open(QUICKSTART / "cache" / "val")


@pytest.fixture(scope="module")
def asked(val: FeatureCache) -> list[tuple[Path, NDArray[np.float32], list[str]]]:
    """Paths, boxes and true names of some images of the validation set."""
    samples = [val.sample(position) for position in range(120)]
    return [
        (
            WORLD / f"{sample.image_id:012d}.jpg",
            np.array(sample.boxes_xyxy),
            [val.manifest.vocabulary[label] for label in sample.labels.tolist()],
        )
        for sample in samples
    ]


def share_right(found: list[Regions], wanted: list[list[str]], among: set[str]) -> float:
    right = [
        label == name
        for regions, names in zip(found, wanted, strict=True)
        for label, name in zip(regions.labels, names, strict=True)
        if name in among
    ]
    return float(np.mean(right))


def test_regions_are_named_by_examples_and_beside_words(
    model: RegionSpot,
    val: FeatureCache,
    asked: list[tuple[Path, NDArray[np.float32], list[str]]],
) -> None:
    images, boxes, names = (list(column) for column in zip(*asked, strict=True))
    trained = FeatureCache.open(QUICKSTART / "cache" / "toy365")
    taught = model.prototypes_from_cache(trained, max_examples=5)
    shown = set(taught.vocabulary)
    # Alone: nothing but examples to choose from.
    alone = model.recognize(images, boxes, examples=taught, with_masks=False)
    assert share_right(alone, names, shown) > 0.6
    words = [name for name in val.manifest.vocabulary if name not in shown]
    calibration = model.calibrate(val)
    both = model.recognize(
        images,
        boxes,
        vocabulary=words,
        examples=taught,
        calibration=calibration,
        with_masks=False,
    )
    assert share_right(both, names, shown) > 0.5
    assert share_right(both, names, set(words)) > 0.5


def test_names_above_the_threshold_are_as_precise_as_asked_for(
    model: RegionSpot,
    val: FeatureCache,
    asked: list[tuple[Path, NDArray[np.float32], list[str]]],
) -> None:
    images, boxes, names = (list(column) for column in zip(*asked, strict=True))
    words = val.manifest.vocabulary.names[::2]  # regions of the other half are unknown
    calibration = model.calibrate(val, vocabulary=words, target_precision=0.8)
    found = model.recognize(
        images,
        boxes,
        vocabulary=words,
        unknown="background",
        calibration=calibration,
        with_masks=False,
    )
    pairs = [
        (label, name)
        for regions, true in zip(found, names, strict=True)
        for label, name in zip(regions.labels, true, strict=True)
    ]
    given = [label == name for label, name in pairs if label != "background"]
    assert np.mean(given) > 0.7
    assert np.mean([label == "background" for label, name in pairs if name not in words]) > 0.6
