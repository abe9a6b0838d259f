import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from regionspot.core.errors import ConfigError, ShapeError
from regionspot.core.region_scores import RegionScores
from regionspot.scoring import emit_predictions, flatten_top_k, top_1


def scores_of(
    scores: list[list[float]], box_scores: list[float] | None = None, image_id: int = 5
) -> RegionScores:
    boxes = np.array([[10 * i, 0, 10 * i + 4, 6] for i in range(len(scores))], np.float32)
    return RegionScores(
        image_id=image_id,
        boxes_xyxy=boxes.reshape(-1, 4),
        scores=np.array(scores, np.float32),
        box_scores=None if box_scores is None else np.array(box_scores, np.float32),
    )


def test_the_best_pairs_of_boxes_and_classes_come_first() -> None:
    emitted = flatten_top_k(scores_of([[0.5, 0.25, 0.125], [0.0, 0.75, 0.375]]), [7, 8, 9], k=4)
    assert emitted.scores.tolist() == [0.75, 0.5, 0.375, 0.25]
    assert emitted.category_ids.tolist() == [8, 7, 9, 8]
    assert emitted.boxes_xywh.tolist() == [
        [10, 0, 4, 6],
        [0, 0, 4, 6],
        [10, 0, 4, 6],
        [0, 0, 4, 6],
    ]
    assert emitted.image_ids.tolist() == [5] * 4


def test_box_scores_are_multiplied_in_before_the_cut() -> None:
    # After the cut, the first box's 0.9 would survive and the second's 0.8 would not.
    emitted = flatten_top_k(scores_of([[0.9, 0.1], [0.2, 0.8]], [0.125, 0.5]), [1, 2], k=1)
    assert emitted.category_ids.tolist() == [2]
    assert emitted.scores[0] == pytest.approx(0.4)


def test_top_1_gives_each_box_one_class_and_multiplies_the_box_score() -> None:
    emitted = top_1(scores_of([[0.75, 0.25], [0.25, 0.5], [0.25, 0.5]], [0.5, 1, 0]), [4, 6])
    assert emitted.category_ids.tolist() == [4, 6, 6]
    assert emitted.scores.tolist() == [0.375, 0.5, 0]


@given(
    arrays(
        np.float32,
        st.tuples(st.integers(0, 7), st.integers(1, 9)),
        elements=st.sampled_from([np.float32(value) for value in (0, 0.25, 0.5, 0.75, 1)]),
    ),
    st.integers(1, 20),
)
def test_the_cut_is_a_stable_sorts_first_k(scores: np.ndarray, k: int) -> None:
    regions, classes = scores.shape
    image = RegionScores(
        image_id=1,
        boxes_xyxy=np.arange(regions * 4, dtype=np.float32).reshape(-1, 4),
        scores=scores,
    )
    emitted = flatten_top_k(image, range(classes), k=k)
    wanted = sorted(range(scores.size), key=lambda i: -scores.ravel()[i])[:k]
    assert emitted.category_ids.tolist() == [i % classes for i in wanted]
    assert emitted.boxes_xywh[:, 0].tolist() == [4 * (i // classes) for i in wanted]


def test_annotated_boxes_come_back_with_the_decimals_they_were_annotated_with() -> None:
    x, y, width, height = 123.45, 67.89, 401.03, 12.34
    image = RegionScores(
        image_id=1,
        boxes_xyxy=np.array([[x, y, x + width, y + height]], np.float32),
        scores=np.ones((1, 1), np.float32),
    )
    assert flatten_top_k(image, [1]).boxes_xywh.tolist() == [[x, y, width, height]]


@pytest.mark.parametrize("protocol", ["flattened_top300", "top1"])
def test_an_image_without_regions_emits_nothing(protocol: str) -> None:
    image = RegionScores(
        image_id=1, boxes_xyxy=np.zeros((0, 4), np.float32), scores=np.zeros((0, 3), np.float32)
    )
    assert len(emit_predictions([image], [1, 2, 3], protocol=protocol)) == 0  # type: ignore[arg-type]


def test_images_follow_each_other() -> None:
    images = [scores_of([[1.0]], image_id=3), scores_of([[0.5]], image_id=2)]
    emitted = emit_predictions(images, [1], protocol="flattened_top300")
    assert emitted.image_ids.tolist() == [3, 2]


def test_at_most_300_predictions_leave_an_image() -> None:
    image = scores_of([[0.5] * 100] * 4)
    assert len(emit_predictions([image], range(100), protocol="flattened_top300")) == 300


def test_category_ids_of_another_vocabulary_are_refused() -> None:
    with pytest.raises(ShapeError, match="2 classes, but 3 category ids"):
        flatten_top_k(scores_of([[0.5, 0.5]]), [1, 2, 3])


def test_unknown_protocols_and_empty_cuts_are_refused() -> None:
    with pytest.raises(ConfigError, match="flattened_top300"):
        emit_predictions([], [1], protocol="top5")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="k is 0"):
        flatten_top_k(scores_of([[1.0]]), [1], k=0)
