"""Bootstrap draws against AP of the data set that each draw stands for."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from regionspot.core.errors import ConfigError
from regionspot.scoring import (
    ClassGroup,
    CocoGroundTruth,
    CocoScorer,
    NamedRegions,
    Predictions,
    bootstrap_spread,
    draw_figures,
)

NUM_IMAGES = 300  # more than are matched at once


def drawn_case(num_images: int = NUM_IMAGES) -> tuple[CocoGroundTruth, Predictions]:
    generator = np.random.default_rng(3)
    images = np.repeat(np.arange(num_images), generator.integers(0, 4, num_images))
    boxes = np.hstack(
        [generator.uniform(0, 300, (len(images), 2)), generator.uniform(20, 90, (len(images), 2))]
    )
    labels = generator.integers(0, 2, len(images))
    found = np.concatenate([np.arange(len(images)), generator.integers(0, len(images), 200)])
    truth = CocoGroundTruth(
        name="drawn",
        image_ids=tuple(range(num_images)),
        category_ids=(1, 2, 3),
        class_names=("a", "b", "c"),
        region_images=images,
        region_labels=labels,
        boxes_xywh=boxes,
    )
    predictions = Predictions(
        image_ids=images[found],
        category_ids=np.where(generator.random(len(found)) < 0.7, labels[found], 2) + 1,
        boxes_xywh=boxes[found] + generator.choice([0.0, 4.0, 15.0], (len(found), 4)),
        scores=generator.random(len(found)),  # without ties, so that copies change no order
    )
    return truth, predictions


def repeated(
    truth: CocoGroundTruth, predictions: Predictions, counts: NDArray[np.int64]
) -> tuple[CocoGroundTruth, Predictions]:
    """Make the data set that a draw stands for, each copy of an image an image of its own."""
    originals = np.repeat(np.arange(len(counts)), counts)
    regions = [np.flatnonzero(truth.region_images == image) for image in originals]
    rows = [np.flatnonzero(predictions.image_ids == image) for image in originals]
    numbers = np.arange(len(originals))
    chosen, found = np.concatenate(regions), np.concatenate(rows)
    copies = CocoGroundTruth(
        name="copies",
        image_ids=tuple(numbers.tolist()),
        category_ids=truth.category_ids,
        class_names=truth.class_names,
        region_images=np.repeat(numbers, [len(part) for part in regions]),
        region_labels=truth.region_labels[chosen],
        boxes_xywh=truth.boxes_xywh[chosen],
    )
    theirs = Predictions(
        image_ids=np.repeat(numbers, [len(part) for part in rows]),
        category_ids=predictions.category_ids[found],
        boxes_xywh=predictions.boxes_xywh[found],
        scores=predictions.scores[found],
    )
    return copies, theirs


def test_a_draw_is_scored_as_the_data_set_it_stands_for() -> None:
    truth, predictions = drawn_case()
    generator = np.random.default_rng(4)
    drawn = generator.integers(0, NUM_IMAGES, (3, NUM_IMAGES))
    counts = np.stack([np.bincount(row, minlength=NUM_IMAGES) for row in drawn])
    figures = draw_figures(truth, predictions, counts)
    for draw in range(3):
        copies, theirs = repeated(truth, predictions, counts[draw])
        wanted = CocoScorer(copies, scorer="reference").score(theirs)
        # Copies of a prediction have one score, and the curve steps between them.
        assert figures["AP"][draw] == pytest.approx(wanted.AP, abs=0.05)
        assert figures["AP50"][draw] == pytest.approx(wanted.AP50, abs=0.1)


def test_every_image_once_gives_the_figures_themselves() -> None:
    truth, predictions = drawn_case()
    found = draw_figures(truth, predictions, np.ones((1, NUM_IMAGES), np.int64))
    wanted = CocoScorer(truth).score(predictions)
    for name in ("AP", "AP50", "AP75"):
        assert found[name][0] == pytest.approx(getattr(wanted, name), abs=1e-9)


def test_ap_of_groups_of_classes_has_draws_of_its_own() -> None:
    truth, predictions = drawn_case()
    # In another order than that of their ids.
    shuffled = replace(truth, category_ids=(3, 1, 2), class_names=("c", "a", "b"),
                       region_labels=(truth.region_labels + 1) % 3)  # fmt: skip
    groups = [ClassGroup(name="b alone", classes=("b",)), ClassGroup(name="none", classes=("c",))]
    for case in (truth, shuffled):
        found = draw_figures(
            case, predictions, np.ones((1, NUM_IMAGES), np.int64), class_groups=groups
        )
        per_class = {one.name: one.AP for one in CocoScorer(case).score(predictions).per_category}
        assert found["AP of b alone"][0] == pytest.approx(per_class["b"], abs=1e-9)
        assert np.isnan(found["AP of none"][0])
    spread = bootstrap_spread(truth, [predictions], class_groups=groups, num_draws=20)
    assert "AP of none" not in spread.of_methods[0]


def test_figures_over_regions_are_drawn_with_their_images() -> None:
    truth, predictions = drawn_case(40)
    generator = np.random.default_rng(5)
    named = {
        image: NamedRegions(
            labels=generator.integers(-1, 3, count),
            predicted=generator.integers(0, 3, count),
            probabilities=generator.random(count, np.float32),
            ranks=generator.integers(0, 3, count),
            num_classes=3,
        )
        for image, count in enumerate(generator.integers(0, 4, 40).tolist())
        if image != 7  # of an image that the cache does not have
    }
    spread = bootstrap_spread(truth, [predictions, predictions], named=[named, {}], num_draws=50)
    # The same draws of images, each region's rank listed as often as its image is drawn.
    drawn = np.random.default_rng(2026).integers(0, 40, (50, 40))
    top1 = []
    for images in drawn.tolist():
        right = [
            rank == 0
            for image in images
            if image in named
            for rank, label in zip(named[image].ranks, named[image].labels, strict=True)
            if label >= 0
        ]
        top1.append(100 * np.mean(right))
    found = spread.of_methods[0]["top1_accuracy"]
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(top1, [2.5, 97.5])))
    assert "top5_accuracy" not in spread.of_methods[0]  # of three classes it has no meaning
    assert "top1_accuracy" not in spread.of_methods[1]
    assert "top1_accuracy" not in spread.of_differences[1]


def test_intervals_hold_the_figure_and_differences_are_narrower() -> None:
    truth, predictions = drawn_case()
    worse = predictions.select(np.arange(0, len(predictions), 2))
    spread = bootstrap_spread(truth, [predictions, worse], num_draws=60)
    ap = CocoScorer(truth).score(predictions).AP
    assert ap is not None
    own, lead = spread.of_methods[0]["AP"], spread.of_differences[1]["AP"]
    assert own.low < ap < own.high
    assert spread.of_differences[0]["AP"].low == spread.of_differences[0]["AP"].high == 0
    assert lead.low > 0, "half of the predictions find less in every draw"
    assert spread == bootstrap_spread(truth, [predictions, worse], num_draws=60)


def test_too_few_draws_are_refused() -> None:
    truth, predictions = drawn_case(5)
    with pytest.raises(ConfigError, match=r"--bootstrap is 5; wanted 0 for no intervals, or 20"):
        bootstrap_spread(truth, [predictions], num_draws=5)
