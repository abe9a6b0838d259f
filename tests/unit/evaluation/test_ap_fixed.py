"""AP-fixed against the definition of Dave et al. (2021), read plainly."""

import json
from pathlib import Path

import numpy as np
import pytest

from regionspot.core.errors import ConfigError
from regionspot.core.region_scores import RegionScores
from regionspot.scoring import (
    CocoGroundTruth,
    LvisGroundTruth,
    Predictions,
    best_of_each_class,
    emit_predictions,
    scorer_of,
)

NUM_REGIONS, NUM_CLASSES = 40, 12


@pytest.fixture
def truth(tmp_path: Path) -> LvisGroundTruth:
    """Two images of 40 boxes side by side, class = number of the box modulo 12."""
    rows = [(image, number) for image in (1, 2) for number in range(NUM_REGIONS)]
    content = {
        "images": [
            {
                "id": image,
                "height": 900,
                "width": 900,
                "neg_category_ids": list(range(1, NUM_CLASSES + 1)),
                "not_exhaustive_category_ids": [],
            }
            for image in (1, 2)
        ],
        "categories": [
            {"id": number, "name": f"class {number}", "frequency": "rcf"[number % 3]}
            for number in range(1, NUM_CLASSES + 1)
        ],
        "annotations": [
            {
                "id": row + 1,
                "image_id": image,
                "category_id": number % NUM_CLASSES + 1,
                "bbox": [20 * number, 0, 15, 15],
                "area": 225,
            }
            for row, (image, number) in enumerate(rows)
        ],
    }
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(content))
    return LvisGroundTruth.read(path)


def scored_images() -> list[RegionScores]:
    generator = np.random.default_rng(0)
    boxes = np.array([[20 * n, 0, 20 * n + 15, 15] for n in range(NUM_REGIONS)], np.float32)
    return [
        RegionScores(
            image_id=image,
            boxes_xyxy=boxes,
            scores=generator.random((NUM_REGIONS, NUM_CLASSES)).astype(np.float32),
        )
        for image in (1, 2)
    ]


def ap_by_hand(images: list[RegionScores]) -> float:
    """Rank all boxes of a class over both images; boxes fit exactly, so every IoU is 0 or 1."""
    of_classes = []
    for label in range(NUM_CLASSES):
        ranked = sorted(
            (
                (-float(image.scores[number, label]), number % NUM_CLASSES == label)
                for image in images
                for number in range(NUM_REGIONS)
            ),
        )
        right = np.cumsum([is_right for _, is_right in ranked])
        precision = right / np.arange(1, len(ranked) + 1)
        recall = right / right[-1]
        levels = [
            precision[recall >= level].max() for level in np.linspace(0, 1, 101)
        ]  # the highest precision at this recall or more
        of_classes.append(np.mean(levels))
    return 100 * float(np.mean(of_classes))


def test_every_pair_counts_however_many_an_image_has(truth: LvisGroundTruth) -> None:
    images = scored_images()
    ids = list(range(1, NUM_CLASSES + 1))
    found = emit_predictions(images, ids, protocol="ap_fixed")
    assert len(found) == 2 * NUM_REGIONS * NUM_CLASSES > 2 * 300
    fixed = scorer_of(truth, protocol="ap_fixed").score(found).AP
    assert fixed == pytest.approx(ap_by_hand(images), abs=1e-4)
    capped = scorer_of(truth).score(found).AP
    assert capped is not None
    assert fixed is not None
    assert capped < fixed, "300 of 480 pairs an image lose some that are right"


def test_the_best_of_each_class_are_kept_over_all_images() -> None:
    rows = [(1, 5, 0.5), (1, 6, 0.9), (2, 5, 0.75), (2, 5, 0.5), (3, 5, 0.25), (3, 6, 0.1)]
    found = best_of_each_class(
        Predictions(
            image_ids=np.array([row[0] for row in rows]),
            category_ids=np.array([row[1] for row in rows]),
            boxes_xywh=np.ones((len(rows), 4)),
            scores=np.array([row[2] for row in rows]),
        ),
        k=2,
    )
    kept = list(zip(found.image_ids, found.category_ids, found.scores, strict=True))
    assert kept == [(1, 5, 0.5), (1, 6, 0.9), (2, 5, 0.75), (3, 6, 0.1)]


def test_it_is_refused_where_it_has_no_meaning(truth: LvisGroundTruth) -> None:
    with pytest.raises(ConfigError, match=r"Set --scorer hotcoco for --protocol ap_fixed"):
        scorer_of(truth, scorer="reference", protocol="ap_fixed")
    coco = CocoGroundTruth(
        name="none",
        image_ids=(),
        category_ids=(),
        class_names=(),
        region_images=np.zeros(0, np.int64),
        region_labels=np.zeros(0, np.int64),
        boxes_xywh=np.zeros((0, 4)),
    )
    with pytest.raises(ConfigError, match=r"defined for LVIS only"):
        scorer_of(coco, protocol="ap_fixed")
