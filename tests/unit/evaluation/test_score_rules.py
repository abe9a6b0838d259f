from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import batched_nms

from regionspot.core.errors import ConfigError, ShapeError
from regionspot.core.region_scores import RegionScores
from regionspot.scoring import Predictions, ScoreRule, emit_predictions

Box = tuple[int, int, int, int]

WIDE, NARROW, APART = (0, 0, 10, 10), (0, 0, 10, 8), (20, 0, 30, 10)
"""The IoU of the first two is 80 / 100; the third touches neither."""


def image_of(
    boxes: list[Box],
    probabilities: list[list[float]],
    predicted_iou: list[float] | None = None,
    box_scores: list[float] | None = None,
    num_classes: int = 3,
) -> RegionScores:
    def column(values: list[float] | None) -> np.ndarray | None:
        return None if values is None else np.array(values, np.float32)

    return RegionScores(
        image_id=5,
        boxes_xyxy=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.array(probabilities, np.float32).reshape(-1, num_classes),
        box_scores=column(box_scores),
        predicted_iou=column(predicted_iou),
    )


def emitted(image: RegionScores, rule: ScoreRule) -> Predictions:
    num_classes = image.scores.shape[1]
    return emit_predictions(
        [image], range(1, num_classes + 1), protocol="flattened_top300", score_rule=rule
    )


TABLE = image_of(
    [WIDE, NARROW, APART],
    [[0.64, 0.36, 0.0005], [0.49, 0.5, 0.01], [0.16, 0.001, 0.839]],
    predicted_iou=[0.81, 1.21, 0.25],
    box_scores=[0.5, 0.25, 1.0],
)


def test_taps_rule_on_a_table_by_hand() -> None:
    # Square roots of 0.64 x 0.81, ... by hand; 1.21 counts as 1. Class 1: the narrow box (0.7)
    # loses to the wide one (0.72); class 2: the wide one (0.54) loses to the narrow one (0.7071).
    # 0.0005 of class 3 and 0.001 of class 2 are too small.
    wanted = [
        (WIDE, 1, 0.72),
        (NARROW, 2, 0.70710678),
        (APART, 3, 0.45798472),
        (APART, 1, 0.2),
        (NARROW, 3, 0.1),
    ]
    found = emitted(TABLE, "tap")
    assert found.category_ids.tolist() == [category for _, category, _ in wanted]
    assert found.scores.tolist() == pytest.approx([score for *_, score in wanted], abs=1e-7)
    corners = found.boxes_xywh.copy()
    corners[:, 2:] += corners[:, :2]
    assert corners.tolist() == [list(box) for box, *_ in wanted]


def test_box_scores_count_under_their_own_rule_only() -> None:
    times_box = emitted(TABLE, "box_score")
    assert times_box.scores[:3].tolist() == pytest.approx([0.839, 0.32, 0.18])
    alone = emitted(TABLE, "probability")
    assert alone.scores[:3].tolist() == pytest.approx([0.839, 0.64, 0.5])


boxes = st.tuples(*[st.integers(0, 4)] * 2, *[st.integers(0, 8)] * 2).map(
    lambda found: (found[0], found[1], found[0] + found[2], found[1] + found[3])
)
probabilities = st.sampled_from([0.0, 0.0009765625, 0.001, 0.00390625, 0.25, 0.5, 0.5, 1.0])
regions = st.tuples(
    boxes, st.lists(probabilities, min_size=3, max_size=3), st.sampled_from([-0.5, 0, 0.25, 1, 4])
)


def overlap(first: Box, second: Box) -> Fraction:
    width = max(0, min(first[2], second[2]) - max(first[0], second[0]))
    height = max(0, min(first[3], second[3]) - max(first[1], second[1]))
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    union = area - width * height
    return Fraction(width * height, union) if union else Fraction(0)


def read_plainly(
    drawn: list[tuple[Box, list[float], float]],
) -> list[tuple[float, int, Box]]:
    """TAP's rule, pair by pair; scores before the square root, which keeps their order."""
    kept: list[tuple[float, int, int]] = []
    for category in range(3):
        candidates = []
        for row, (_, chances, quality) in enumerate(drawn):
            if chances[category] > 0.001:
                candidates.append((chances[category] * min(1, max(0, quality)), row))
        chosen: list[int] = []
        for score, row in sorted(candidates, key=lambda pair: -pair[0]):
            if all(overlap(drawn[row][0], drawn[one][0]) <= Fraction(1, 2) for one in chosen):
                chosen.append(row)
                kept.append((score, row, category))
    kept.sort(key=lambda one: (-one[0], one[1], one[2]))
    return [(score, category + 1, drawn[row][0]) for score, row, category in kept[:300]]


@settings(max_examples=150, deadline=None)
@given(drawn=st.lists(regions, max_size=9))
def test_taps_rule_is_that_of_a_plain_reading(
    drawn: list[tuple[Box, list[float], float]],
) -> None:
    image = image_of([one[0] for one in drawn], [one[1] for one in drawn], [o[2] for o in drawn])
    found = emitted(image, "tap")
    wanted = read_plainly(drawn)
    assert found.category_ids.tolist() == [category for _, category, _ in wanted]
    assert (found.scores**2).tolist() == pytest.approx([score for score, *_ in wanted])
    assert found.boxes_xywh.tolist() == [
        [x1, y1, x2 - x1, y2 - y1] for _, _, (x1, y1, x2, y2) in wanted
    ]


@pytest.mark.parametrize("seed", range(5))
def test_suppression_is_that_of_torchvision(seed: int) -> None:
    generator = np.random.default_rng(seed)
    corners = generator.integers(0, 30, (60, 2))
    drawn = np.hstack([corners, corners + generator.integers(1, 25, (60, 2))])
    chances = generator.permutation(240).reshape(60, 4) / 240 + 0.01
    image = RegionScores(
        image_id=1,
        boxes_xyxy=drawn.astype(np.float32),
        scores=chances.astype(np.float32),
        predicted_iou=np.ones(60, np.float32),
    )
    rows, columns = np.indices(chances.shape)
    scores = torch.from_numpy(image.scores.ravel())
    kept = batched_nms(
        torch.from_numpy(image.boxes_xyxy[rows.ravel()]),
        scores,
        torch.from_numpy(columns.ravel()),
        0.5,
    )
    found = emitted(image, "tap")
    assert len(found) == len(kept) < 240
    assert found.category_ids.tolist() == (columns.ravel()[kept] + 1).tolist()
    assert found.scores.tolist() == pytest.approx(scores[kept].sqrt().tolist(), rel=1e-6)


def test_the_best_300_of_an_image_stay() -> None:
    image = image_of(
        [(20 * place, 0, 20 * place + 10, 10) for place in range(150)],
        [[0.5, 0.25, 0.125]] * 150,
        predicted_iou=[1.0] * 150,
    )
    found = emitted(image, "tap")
    assert len(found) == 300
    assert (found.category_ids < 3).all()


def test_no_regions_and_regions_that_are_all_dropped_give_nothing() -> None:
    assert len(emitted(image_of([], [], []), "tap")) == 0
    assert len(emitted(image_of([WIDE], [[0.001, 0, 0]], [1.0]), "tap")) == 0


def test_what_a_rule_cannot_do_is_refused() -> None:
    with pytest.raises(ShapeError, match="needs SAM's predicted IoU"):
        emitted(image_of([WIDE], [[1, 0, 0]]), "tap")
    with pytest.raises(ShapeError, match="a finite number; found .*nan"):
        emitted(image_of([WIDE], [[1, 0, 0]], [float("nan")]), "tap")
    with pytest.raises(ConfigError, match=r"Set --score_rule to one of box_score, probability"):
        emitted(TABLE, "product")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="Set --protocol flattened_top300"):
        emit_predictions([], [1], protocol="top1", score_rule="tap")
