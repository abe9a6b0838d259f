"""Scores from a cache: the head on each image alone, and a softmax in numpy."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from regionspot.cache import CodecName, FeatureCache
from regionspot.core.errors import CacheMismatchError, ConfigError, ShapeError
from regionspot.inference import score_cached
from regionspot.model import FusionHead, HeadCard, HeadSpec, RegionClassifier, TrainedHead

SCALE, BIAS = 12.0, -3.0
EMPTY = (0, 3, 4, 11)  # images without regions


@pytest.fixture
def cache(make_cache: Callable[..., Path]) -> FeatureCache:
    """Twelve images, some without regions, others with up to four."""
    return FeatureCache.open(make_cache(empty=EMPTY))


@pytest.fixture
def cached_head(cache: FeatureCache) -> TrainedHead:
    """A random head for that cache, as training would leave it."""
    fingerprint = cache.manifest.fingerprint
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        head = FusionHead(
            HeadSpec(
                token_dim=fingerprint.token_dim,
                feature_dim=fingerprint.feature_dim,
                text_dim=fingerprint.text_dim,
                num_blocks=2,
                num_heads=2,
                ffn_dim=12,
                dropout=0.3,
            )
        )
    card = HeadCard(head=head.spec, scale=SCALE, bias=BIAS, fingerprint=fingerprint.to_dict())
    return TrainedHead(head=head, classifier=RegionClassifier(SCALE, BIAS), card=card)


@pytest.mark.parametrize(("codec", "tolerance"), [("bfloat16", 0.01), ("int8", 0.02)])
def test_how_features_are_stored_is_no_reason_to_refuse_and_hardly_changes_a_score(
    codec: CodecName,
    tolerance: float,
    cache: FeatureCache,
    cached_head: TrainedHead,
    make_cache: Callable[..., Path],
) -> None:
    other = FeatureCache.open(make_cache(codec, empty=EMPTY, codec=codec))
    bank = bank_of(cache)
    pairs = zip(
        score_cached(cached_head, cache, bank), score_cached(cached_head, other, bank), strict=True
    )
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=tolerance)


def bank_of(cache: FeatureCache) -> NDArray[np.float32]:
    return cache.text_bank("ensemble81")


@torch.no_grad()
def scores_by_hand(head: FusionHead, cache: FeatureCache, index: int) -> NDArray[np.float64]:
    """One image, no padding, no mask; cosines and softmax in float64."""
    sample = cache.sample(index)
    tokens = torch.from_numpy(sample.position_tokens.astype(np.float32))
    features = torch.from_numpy(sample.feature_map.astype(np.float32))
    embedded = head.eval()(tokens[None], features[None])[0].numpy().astype(np.float64)
    cosines = embedded @ bank_of(cache).T / np.linalg.norm(embedded, axis=1, keepdims=True)
    powers = np.exp(SCALE * cosines + BIAS)
    quotients: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return quotients


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_scores_are_those_of_each_image_alone_whatever_the_batch_size(
    cached_head: TrainedHead, cache: FeatureCache, batch_size: int
) -> None:
    rows = list(score_cached(cached_head, cache, bank_of(cache), batch_size=batch_size))
    assert len(rows) == len(cache) == 12
    for index, row in enumerate(rows):
        wanted = scores_by_hand(cached_head.head, cache, index)
        np.testing.assert_allclose(row.scores, wanted, rtol=0, atol=1e-6)
        assert row.scores.dtype == np.float32


def test_images_come_in_the_caches_order_with_their_boxes(
    cached_head: TrainedHead, cache: FeatureCache
) -> None:
    rows = list(score_cached(cached_head, cache, bank_of(cache), batch_size=5))
    assert [row.image_id for row in rows] == [100 + number for number in range(12)]
    for index, row in enumerate(rows):
        np.testing.assert_array_equal(row.boxes_xyxy, cache.sample(index).boxes_xyxy)
        np.testing.assert_array_equal(row.box_scores, cache.sample(index).box_scores)


def test_an_image_without_regions_has_no_rows(
    cached_head: TrainedHead, cache: FeatureCache
) -> None:
    rows = list(score_cached(cached_head, cache, bank_of(cache), batch_size=2))
    assert [index for index, row in enumerate(rows) if row.scores.shape == (0, 3)] == list(EMPTY)


def test_scores_outlive_the_cache(
    cached_head: TrainedHead, make_cache: Callable[..., Path]
) -> None:
    with FeatureCache.open(make_cache("other")) as cache:
        rows = list(score_cached(cached_head, cache, bank_of(cache)))
        wanted = [cache.sample(index).boxes_xyxy + 1 for index in range(len(cache))]
    for row, moved in zip(rows, wanted, strict=True):
        boxes = row.boxes_xyxy
        boxes += 1  # neither read-only nor gone
        np.testing.assert_array_equal(boxes, moved)


def test_another_vocabulary_may_be_asked_about(
    cached_head: TrainedHead, cache: FeatureCache
) -> None:
    bank = torch.nn.functional.normalize(torch.arange(1.0, 13.0).reshape(2, 6).cos(), dim=1)
    by_tensor = list(score_cached(cached_head, cache, bank))
    by_array = list(score_cached(cached_head, cache, bank.numpy()))
    assert by_tensor[1].scores.shape == (2, 2)
    for one, other in zip(by_tensor, by_array, strict=True):
        np.testing.assert_array_equal(one.scores, other.scores)


def test_a_cache_of_other_frozen_models_is_refused_before_anything_is_scored(
    cached_head: TrainedHead, make_cache: Callable[..., Path]
) -> None:
    other = FeatureCache.open(make_cache("other", clip_model="huge"))
    with pytest.raises(CacheMismatchError, match="clip_model: found 'huge', wanted 'tiny'"):
        score_cached(cached_head, other, bank_of(other))


def test_a_head_that_names_no_models_is_trusted_with_a_warning(
    cached_head: TrainedHead, cache: FeatureCache, caplog: pytest.LogCaptureFixture
) -> None:
    nameless = replace(cached_head, card=replace(cached_head.card, fingerprint={}))
    with caplog.at_level(logging.WARNING, logger="regionspot"):
        rows = list(score_cached(nameless, cache, bank_of(cache)))
    assert "names no frozen models" in caplog.text
    wanted = scores_by_hand(cached_head.head, cache, 2)
    np.testing.assert_allclose(rows[2].scores, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "shape", [(3, 5), (0, 6), (6,), (1, 3, 6)], ids=["width", "no class", "flat", "deep"]
)
def test_a_text_bank_that_does_not_fit_is_refused(
    cached_head: TrainedHead, cache: FeatureCache, shape: tuple[int, ...]
) -> None:
    with pytest.raises(ShapeError, match=r"wanted \(C, 6\)"):
        score_cached(cached_head, cache, np.ones(shape, np.float32))


def test_a_batch_of_no_image_is_refused(cached_head: TrainedHead, cache: FeatureCache) -> None:
    with pytest.raises(ConfigError, match="batch_size is 0"):
        score_cached(cached_head, cache, bank_of(cache), batch_size=0)
