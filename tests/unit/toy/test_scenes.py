"""Scenes and the things in them: what may be seen, what hides what, and where it is."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torchvision.ops import masks_to_boxes

from regionspot.toy import (
    SETTINGS,
    TEXTURES,
    THINGS,
    ClassMix,
    extents_xyxy,
    look_of,
    sample_scene,
    vocabulary,
    zipf,
)
from regionspot.toy.drawing import Placement, draw_background, draw_object
from regionspot.toy.scenes import Scene, render_scene, sample_names

SEEDS = st.integers(0, 2**32)
NAMES = vocabulary()
MIX = ClassMix(names=NAMES, probabilities=zipf(164, 0.5), num_objects=(2, 7))


def grey(size_hw: tuple[int, int] = (90, 100)) -> NDArray[np.float32]:
    return np.full((*size_hw, 3), 128, np.float32)


def drawn(
    seed: int, name: str, *, centre_xy: tuple[float, float] = (50, 45), radius: float = 30
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    image = grey()
    placement = Placement(centre_xy=centre_xy, radius=radius)
    cover = draw_object(np.random.default_rng(seed), image, look_of(name), placement)
    return image, cover


def inner(cover: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The covered pixels whose 24 neighbours are covered, too: no blended edge."""
    padded = np.pad(cover, 2)
    shifts = [np.roll(padded, (dy, dx), (0, 1)) for dy in range(-2, 3) for dx in range(-2, 3)]
    inside: NDArray[np.bool_] = np.all(shifts, axis=0)[2:-2, 2:-2]
    return inside


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, thing=st.sampled_from(THINGS))
def test_a_context_thing_looks_the_same_in_every_setting(seed: int, thing: str) -> None:
    pictures = [drawn(seed, f"{setting} {thing}") for setting in SETTINGS]
    for image, cover in pictures[1:]:
        np.testing.assert_array_equal(image, pictures[0][0])
        np.testing.assert_array_equal(cover, pictures[0][1])


@pytest.mark.parametrize("seed", range(5))
def test_grounds_of_different_settings_differ(seed: int) -> None:
    grounds = [
        draw_background(np.random.default_rng(seed), (60, 70), setting) for setting in SETTINGS
    ]
    for index, ground in enumerate(grounds):
        assert ground.shape == (60, 70, 3)
        assert 0 <= ground.min() <= ground.max() <= 255
        for other in grounds[index + 1 :]:
            assert np.abs(ground - other).mean() > 1


def mean_rgb(name: str) -> NDArray[np.float64]:
    """Average over twenty objects: a single one may stray far from its colour."""
    pictures = [drawn(seed, name) for seed in range(20)]
    means = [image[inner(cover)].mean(axis=0) for image, cover in pictures]
    rgb: NDArray[np.float64] = np.mean(means, axis=0, dtype=np.float64)
    return rgb


@pytest.mark.parametrize(
    ("colour", "brighter", "darker"),
    [
        ("red", [0], [1, 2]),
        ("yellow", [0, 1], [2]),
        ("green", [1], [0, 2]),
        ("blue", [2], [0, 1]),
        ("purple", [0, 2], [1]),
    ],
)
def test_a_colour_is_what_its_name_says(
    colour: str, brighter: list[int], darker: list[int]
) -> None:
    mean = mean_rgb(f"plain {colour} circle")
    assert mean[brighter].min() > mean[darker].max() + 40


def test_white_is_bright_and_without_hue() -> None:
    mean = mean_rgb("plain white square")
    assert mean.min() > 200
    assert np.ptp(mean) < 20


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("texture", TEXTURES)
def test_only_stripes_and_dots_have_edges_inside(seed: int, texture: str) -> None:
    image, cover = drawn(seed, f"{texture} red square")
    inside = inner(cover)
    steps = np.abs(np.diff(image, axis=1)).max(axis=2)[inside[:, 1:] & inside[:, :-1]]
    if texture == "plain":
        assert steps.max() < 10
    else:
        assert np.quantile(steps, 0.98) > 40


def test_a_ring_has_a_hole_and_a_circle_has_none() -> None:
    for seed in range(5):
        assert not drawn(seed, "plain red ring")[1][45, 50]
        assert drawn(seed, "plain red circle")[1][45, 50]


@settings(max_examples=60, deadline=None)
@given(
    seed=SEEDS,
    name=st.sampled_from(NAMES),
    x=st.floats(-80, 180),
    y=st.floats(-80, 170),
    radius=st.floats(2, 60),
)
def test_an_object_changes_the_image_only_near_its_place(
    seed: int, name: str, x: float, y: float, radius: float
) -> None:
    image, cover = drawn(seed, name, centre_xy=(x, y), radius=radius)
    rows, columns = np.mgrid[:90, :100]
    far = np.hypot(columns - x, rows - y) > 1.5 * radius + 2
    assert (image[far] == 128).all()
    assert not cover[far].any()
    assert 0 <= image.min() <= image.max() <= 255


def test_what_is_drawn_later_hides_what_was_there() -> None:
    image = grey()
    place = Placement(centre_xy=(50, 45), radius=30)
    rng = np.random.default_rng(0)
    draw_object(rng, image, look_of("plain red square"), place)
    blue = draw_object(rng, image, look_of("plain blue circle"), place)
    inside = image[inner(blue)]
    assert (inside[:, 2] > inside[:, 0]).all()


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, names=st.lists(st.sampled_from(NAMES), min_size=2, max_size=6))
def test_a_scene_with_one_object_more_differs_only_where_that_object_is(
    seed: int, names: list[str]
) -> None:
    """The same random numbers place the first objects, so the last one lies on top of them."""
    more = render_scene(np.random.default_rng(seed), names, "sea")
    fewer = render_scene(np.random.default_rng(seed), names[:-1], "sea")
    assert more.names[: len(fewer.names)] == fewer.names
    is_last = more.instances == len(fewer.names) + 1
    assert is_last.any() == (len(more.names) > len(fewer.names))
    np.testing.assert_array_equal(more.instances[~is_last], fewer.instances[~is_last])


def test_objects_do_overlap() -> None:
    hidden = 0
    for seed in range(30):
        names = NAMES[seed : seed + 5]
        more = render_scene(np.random.default_rng(seed), names, "sea")
        fewer = render_scene(np.random.default_rng(seed), names[:-1], "sea")
        hidden += int((more.instances != fewer.instances)[fewer.instances > 0].sum())
    assert hidden > 0


def check(scene: Scene) -> None:
    num = len(scene.names)
    assert scene.image.shape == (*scene.instances.shape, 3)
    assert scene.image.dtype == scene.instances.dtype == np.uint8
    assert set(scene.instances.shape) <= {112, 128, 144, 160}
    assert scene.instances.max() <= num
    assert scene.boxes_xyxy.shape == (num, 4)
    for number, box in enumerate(scene.boxes_xyxy, start=1):
        mask = torch.from_numpy(scene.instances == number)
        if not mask.any():
            assert box.tolist() == [0, 0, 0, 0]
            continue
        x1, y1, x2, y2 = masks_to_boxes(mask[None])[0].tolist()
        assert box.tolist() == [x1, y1, x2 + 1, y2 + 1]  # torchvision's end on the last pixel


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS)
def test_boxes_are_the_extents_of_the_visible_pixels(seed: int) -> None:
    check(sample_scene(np.random.default_rng(seed), MIX))


def test_extents_are_half_open_and_zero_for_the_hidden() -> None:
    instances = np.zeros((4, 6), np.uint8)
    instances[1:3, 2] = 1
    instances[0, 5] = instances[3, 0] = 3
    assert extents_xyxy(instances, 3).tolist() == [[2, 1, 3, 3], [0, 0, 0, 0], [0, 0, 6, 4]]
    assert extents_xyxy(instances, 0).shape == (0, 4)


@settings(deadline=None)
@given(seed=SEEDS, low=st.integers(1, 4), more=st.integers(0, 4), repeat=st.floats(0, 0.9))
def test_context_classes_of_two_settings_never_meet(
    seed: int, low: int, more: int, repeat: float
) -> None:
    mix = ClassMix(
        names=[*NAMES[:3], *(f"{setting} egg" for setting in SETTINGS)],
        probabilities=np.full(7, 1 / 7),
        num_objects=(low, low + more),
        repeat=repeat,
    )
    names, setting = sample_names(np.random.default_rng(seed), mix)
    assert low <= len(names) <= low + more
    assert set(names) <= set(mix.names)
    needed = {look_of(name).setting for name in names} - {None}
    assert needed <= {setting}
    assert setting in SETTINGS


def test_classes_are_drawn_as_often_as_they_are_probable() -> None:
    mix = ClassMix(
        names=NAMES[:3], probabilities=np.array([0.5, 0, 0.5]), num_objects=(1, 1), repeat=0.0
    )
    rng = np.random.default_rng(0)
    counts = [0, 0, 0]
    for _ in range(1000):
        counts[NAMES.index(sample_names(rng, mix)[0][0])] += 1
    assert counts[1] == 0
    assert abs(counts[0] - 500) < 80  # 5 standard deviations


def test_a_class_that_must_repeat_does() -> None:
    mix = ClassMix(names=NAMES, probabilities=zipf(164, 0), num_objects=(6, 6), repeat=1.0)
    names, _setting = sample_names(np.random.default_rng(0), mix)
    assert len(names) == 6
    assert len(set(names)) == 1


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_a_scene_follows_from_its_seed_and_has_enough_objects(seed: int) -> None:
    one, other = (sample_scene(np.random.default_rng(seed), MIX, min_objects=2) for _ in range(2))
    assert 2 <= len(one.names) <= 7
    assert (one.names, one.setting) == (other.names, other.setting)
    np.testing.assert_array_equal(one.image, other.image)
    np.testing.assert_array_equal(one.instances, other.instances)


def test_scenes_of_different_seeds_differ() -> None:
    sums = {
        int(sample_scene(np.random.default_rng(seed), MIX).image.astype(np.int64).sum())
        for seed in range(10)
    }
    assert len(sums) == 10


def test_a_scene_may_be_empty() -> None:
    scene = render_scene(np.random.default_rng(0), [], "night")
    check(scene)
    assert (scene.names, scene.setting) == ((), "night")
