import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regionspot.data import RepeatFactorSampler, ShuffledSampler, shuffle
from regionspot.data.shuffle import image_repeat_factors


def counts_of(draws: RepeatFactorSampler, num_images: int, seed: int) -> list[int]:
    drawn = draws.draw(np.random.default_rng(seed))
    assert len(drawn) == draws.num_draws
    return np.bincount(drawn, minlength=num_images).tolist()


@pytest.mark.parametrize("images_at_once", [1, 5, 100_000])
def test_factors_are_those_calculated_by_hand(
    images_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shuffle, "_IMAGES_AT_ONCE", images_at_once)
    # 18 images, threshold 1/2. Class 0 is in all of them: factor 1. Class 1 is in one image, twice:
    # sqrt(1/2 * 18 / 1) = 3. Class 2 is in two images: sqrt(1/2 * 18 / 2) = sqrt(4.5). Class 3 is
    # in 9 images, the very threshold: 1. Class 4 is in none.
    labels_of_images = [[0, 1, 1], [2, 0], [0, 2], *([[3, 0]] * 9), *([[0]] * 6)]
    factors = image_repeat_factors(
        np.array([label for labels in labels_of_images for label in labels], np.int32),
        np.array([len(labels) for labels in labels_of_images], np.int32),
        num_classes=5,
        threshold=0.5,
    )
    assert factors.tolist() == pytest.approx([3.0, math.sqrt(4.5), math.sqrt(4.5), *([1.0] * 15)])


def test_an_image_has_the_largest_factor_of_its_classes() -> None:
    # Four images; shares 1/4, 2/4 and 4/4, threshold 1: factors 2, sqrt(2) and 1.
    labels = np.array([2, 0, 1, 2, 1, 2, 2])
    factors = image_repeat_factors(labels, np.array([3, 2, 1, 1]), num_classes=3, threshold=1.0)
    assert factors.tolist() == pytest.approx([2.0, math.sqrt(2), 1.0, 1.0])


def test_whole_factors_are_drawn_exactly_and_halves_in_every_other_pass() -> None:
    draws = RepeatFactorSampler(np.array([3.0, 1.0, 1.5, 1.5]))
    assert draws.num_draws == 7
    counts = np.array([counts_of(draws, 4, seed) for seed in range(400)])
    assert set(map(tuple, counts)) == {(3, 1, 2, 1), (3, 1, 1, 2)}
    assert 150 < (counts[:, 2] == 2).sum() < 250  # 200 expected, deviation 10


def test_any_two_images_may_be_repeated_in_the_same_pass() -> None:
    draws = RepeatFactorSampler(np.full(4, 1.5))
    repeated = [
        [image for image, count in enumerate(counts_of(draws, 4, seed)) if count == 2]
        for seed in range(200)
    ]
    assert {len(images) for images in repeated} == {2}
    assert len({tuple(images) for images in repeated}) == 6  # all pairs of four


def test_factors_that_add_up_to_a_fraction_are_scaled_up() -> None:
    draws = RepeatFactorSampler(np.array([1.0, 1.0, 1.5]))
    assert draws.num_draws == 4
    counts = np.array([counts_of(draws, 3, seed) for seed in range(1000)])
    assert counts.min() == 1
    assert counts.max() == 2
    # 8/7, 8/7 and 12/7 on average; deviations below 0.016
    np.testing.assert_allclose(counts.mean(axis=0), [8 / 7, 8 / 7, 12 / 7], atol=0.06)


@given(factors=st.lists(st.floats(1.0, 30.0), min_size=1, max_size=60), seed=st.integers(0, 2**32))
@settings(max_examples=100)
def test_every_image_is_drawn_its_factor_rounded_down_or_up_and_none_is_lost(
    factors: list[float], seed: int
) -> None:
    draws = RepeatFactorSampler(np.array(factors))
    scale = draws.num_draws / sum(factors)
    assert 1 - 1e-9 <= scale <= 1 + 1 / sum(factors)
    counts = counts_of(draws, len(factors), seed)
    assert sum(counts) == draws.num_draws
    for count, factor in zip(counts, factors, strict=True):
        assert math.floor(factor) <= count <= math.ceil(factor * scale + 1e-6)
        assert count >= 1


def test_images_that_all_have_factor_one_are_drawn_once() -> None:
    assert counts_of(RepeatFactorSampler(np.ones(1000)), 1000, seed=0) == [1] * 1000


def test_passes_with_repeats_have_the_same_length_and_mix_copies() -> None:
    factors = np.array([5.0, *([1.2] * 20)])
    passes = ShuffledSampler(
        np.arange(100, 121), batch_size=4, seed=0, repeats=RepeatFactorSampler(factors)
    )
    assert passes.num_draws == 29
    assert passes.num_batches == 8
    orders = [
        np.concatenate([passes.batch(8 * number + place) for place in range(8)])
        for number in range(3)
    ]
    for order in orders:
        assert len(order) == 29
        assert set(order) == set(range(100, 121))
        assert (order == 100).sum() == 5
        assert np.diff(np.flatnonzero(order == 100)).max() > 1  # not side by side
    assert len({tuple(order) for order in orders}) == 3
