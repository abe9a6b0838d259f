"""Confusions, accuracy by word and by crowd, and reliability, counted by hand."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from regionspot.core.region_scores import RegionScores
from regionspot.scoring import (
    NamedRegions,
    accuracy_by_crowd,
    confusions,
    reliability,
    word_accuracies,
)

NAMES = ("red star", "red ring", "blue star", "blue ring")


def named(labels: list[int], predicted: list[int], probability: float = 0.75) -> NamedRegions:
    scores = np.full((len(labels), len(NAMES)), (1 - probability) / 3, np.float32)
    scores[np.arange(len(labels)), predicted] = probability
    boxes = np.zeros((len(labels), 4), np.float32)
    return NamedRegions.of_scores(
        RegionScores(image_id=1, boxes_xyxy=boxes, scores=scores), np.array(labels, np.int64)
    )


def test_confusions_are_pairs_with_their_share_of_the_class() -> None:
    regions = named([0, 0, 0, 0, 1, 2, -1], [1, 1, 2, 0, 1, 3, 3])
    found = [(c.true_name, c.predicted_name, c.count, c.share) for c in confusions(regions, NAMES)]
    assert found == [
        ("red star", "red ring", 2, 0.5),
        ("blue star", "blue ring", 1, 1.0),
        ("red star", "blue star", 1, 0.25),
    ]
    assert len(confusions(regions, NAMES, most=1)) == 1


def test_each_word_of_a_name_is_counted_alone() -> None:
    colour, shape = word_accuracies(named([0, 0, 2, 3], [1, 2, 2, 0]), NAMES)
    assert (colour.position, colour.accuracy) == (1, 0.5)
    assert (shape.position, shape.accuracy) == (2, 0.5)
    assert [(c.true_name, c.predicted_name, c.count) for c in colour.confusions] == [
        ("blue", "red", 1),
        ("red", "blue", 1),
    ]


@pytest.mark.parametrize("names", [("cat", "dog", "cow", "pig"), ("tennis ball", "sea egg") * 2])
def test_words_that_hardly_recur_are_not_compared(names: tuple[str, ...]) -> None:
    regions = named([0, 1], [1, 1])
    assert word_accuracies(regions, names[:2] if "ball" in names[0] else names) == ()


def test_crowds_are_images_with_as_many_regions() -> None:
    images = [named([0], [0]), named([0, 1, 2], [0, 1, 3]), named([0] * 4, [0] * 4)]
    found = [(c.label, c.num_regions, c.accuracy) for c in accuracy_by_crowd(images)]
    assert found == [("1 to 2", 1, 1.0), ("3 to 5", 7, pytest.approx(6 / 7))]


def test_reliability_bins_give_the_calibration_error_of_torchmetrics() -> None:
    generator = torch.Generator().manual_seed(0)
    probabilities = (3 * torch.randn(200, 4, generator=generator)).softmax(-1)
    labels = torch.randint(0, 4, (200,), generator=generator)
    scores = RegionScores(
        image_id=1, boxes_xyxy=np.zeros((200, 4), np.float32), scores=probabilities.numpy()
    )
    bins = reliability(NamedRegions.of_scores(scores, labels.numpy()))
    assert sum(one.count for one in bins) == 200
    error = sum(one.count * abs(one.confidence - one.accuracy) for one in bins) / 200
    wanted = multiclass_calibration_error(probabilities, labels, 4, n_bins=15, norm="l1")
    assert error == pytest.approx(float(wanted), abs=1e-6)
    assert reliability(named([-1], [0])) == ()
