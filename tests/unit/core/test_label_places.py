import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import box_iou

from regionspot.core.label_places import Rect, place_labels

PICTURE_WH = (640, 480)


def overlap(a: Rect, b: Rect) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)


corners = st.tuples(st.floats(0, 500), st.floats(0, 400))
boxes = st.builds(
    lambda corner, sides: (*corner, corner[0] + sides[0], corner[1] + sides[1]),
    corners,
    st.tuples(st.floats(1, 140), st.floats(1, 80)),
)


@given(st.lists(boxes, max_size=8), st.integers(20, 300), st.integers(10, 50))
def test_labels_stay_in_the_picture_and_keep_their_size(
    drawn: list[Rect], width: int, height: int
) -> None:
    sizes = [(width, height)] * len(drawn)
    for label in place_labels(drawn, sizes, PICTURE_WH):
        assert 0 <= label[0] <= label[2] <= PICTURE_WH[0] + 1e-6
        assert 0 <= label[1] <= label[3] <= PICTURE_WH[1] + 1e-6
        assert abs(label[2] - label[0] - width) < 1e-6
        assert abs(label[3] - label[1] - height) < 1e-6


def test_a_lone_box_has_its_label_above_its_corner() -> None:
    (label,) = place_labels([(100, 100, 200, 200)], [(80, 20)], PICTURE_WH)
    assert label == (100, 78, 180, 98)


def test_a_box_at_the_top_has_its_label_below() -> None:
    (label,) = place_labels([(100, 0, 200, 50)], [(80, 20)], PICTURE_WH)
    assert label == (100, 52, 180, 72)


def test_neighbours_do_not_cover_each_others_names() -> None:
    row: list[Rect] = [(60 * i + 10, 200, 60 * i + 60, 250) for i in range(6)]
    labels = place_labels(row, [(110, 20)] * 6, PICTURE_WH)
    pairs = [(a, b) for i, a in enumerate(labels) for b in labels[:i]]
    assert sum(overlap(a, b) for a, b in pairs) < 0.05 * 6 * 110 * 20


def test_a_box_over_the_whole_picture_keeps_its_label_inside() -> None:
    (label,) = place_labels([(0, 0, 640, 480)], [(80, 20)], PICTURE_WH)
    assert overlap(label, (0, 0, 640, 480)) == 80 * 20


def test_labels_of_2000_boxes_with_room_between_them_cover_nothing() -> None:
    rects: list[Rect] = [
        (100.0 * column, 60.0 * row, 100.0 * column + 40, 60.0 * row + 20)
        for row in range(40)
        for column in range(50)
    ]
    labels = place_labels(rects, [(50, 18)] * len(rects), (5_000, 2_400))
    everything = torch.tensor([*rects, *labels], dtype=torch.float64)
    assert len(labels) == 2_000
    torch.testing.assert_close(box_iou(everything, everything), torch.eye(4_000).double())


def test_no_boxes_have_no_labels() -> None:
    assert place_labels([], [], PICTURE_WH) == []
