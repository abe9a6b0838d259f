"""The distance that tells whether a cached feature map is of an image."""

from itertools import permutations

import numpy as np
import pytest
import torch
from PIL import Image

from regionspot.backbones import ModelsConfig, load_frozen_models
from regionspot.extraction.probes import MAX_DISTANCE, feature_distance


def test_the_distance_is_the_one_worked_out_by_hand() -> None:
    # The channels vary by 1, 2 and 100. The first differs by 0.5 in both tokens, the second by 1 in
    # one of them, which makes 0.7, the third not at all.
    wanted = np.array([[1.0, 2.0, 100.0], [-1.0, -2.0, -100.0]], np.float32)
    found = np.array([[1.5, 3.0, 100.0], [-0.5, -2.0, -100.0]], np.float32)
    assert feature_distance(found, wanted) == pytest.approx(0.5 / 2)


def test_a_huge_channel_that_all_images_share_does_not_hide_another_image() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 50, 16))
    one[:, 3] = other[:, 3] = 1e4
    assert np.linalg.norm(one - other) / np.linalg.norm(other) < 1e-2
    assert feature_distance(one, other) > 1


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (np.ones((4, 3)), np.zeros((4, 3))),  # does not vary
        (np.full((4, 3), np.nan), np.eye(4)[:, :3]),
    ],
    ids=["constant", "not a number"],
)
def test_a_map_that_cannot_be_compared_is_the_same_only_if_it_is_equal(
    found: np.ndarray, wanted: np.ndarray
) -> None:
    assert not feature_distance(found, wanted) <= MAX_DISTANCE
    assert feature_distance(wanted, wanted) == 0


@torch.inference_mode()
def test_the_limit_lies_far_from_rounding_and_far_from_other_images() -> None:
    encoder = load_frozen_models(ModelsConfig(preset="toy")).encoder
    rng = np.random.default_rng(1)
    pictures = [np.full((40, 60, 3), level, np.uint8) for level in (0, 128, 255)]
    for _ in range(3):
        coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        pictures.append(np.asarray(coarse.resize((60, 40), Image.Resampling.BICUBIC)))

    def features(pixels: np.ndarray) -> np.ndarray:
        map_TD = encoder.features(encoder.normalise(encoder.resize(pixels)[None]))[0]
        return map_TD.float().numpy()

    maps = list(map(features, pictures))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = list(map(features, pictures))
    same = [feature_distance(*pair) for pair in zip(rounded, maps, strict=True)]
    other = [feature_distance(*pair) for pair in permutations(maps, 2)]
    assert 0 < max(same) < MAX_DISTANCE / 3
    assert min(other) > MAX_DISTANCE * 3
