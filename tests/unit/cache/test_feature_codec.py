"""What is stored of a feature map, against literal bytes and a plain NumPy decoder."""

import struct
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from regionspot.cache import (
    CODECS,
    CachedSample,
    CodecName,
    FeatureCache,
    Manifest,
    Plan,
    build_index,
    write_manifest,
    write_shard,
)
from regionspot.core.errors import ShapeError
from regionspot.data import BatchPlan, Collator


def trained_like(seed: int = 0, *, width: int = 128) -> Tensor:
    """Numbers as a trained CLIP has them: three channels a hundred times as large as the rest."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((17, width)).astype(np.float32)
    features[:, [3, 50, 99]] *= 100
    features[0] *= 4
    return torch.from_numpy(features)


def stored(codec: CodecName, features: Tensor) -> NDArray[np.generic]:
    return CODECS[codec].to_array(CODECS[codec].encode(features))


def test_a_row_of_int8_is_these_bytes() -> None:
    values = [0.0, 127.0, -127.0, 1.4, 1.6, -50.0, 64.5, 2.5] + [1000.0 + n for n in range(8)]
    (row,) = CODECS["int8"].encode(torch.tensor([values])).tolist()
    codes = [0, 127, 256 - 127, 1, 2, 256 - 50, 64, 2] + [0] * 8  # halves go to the even number
    scale, channels = struct.pack("<f", 1.0), struct.pack("<8h", *range(8, 16))
    outliers = struct.pack("<8e", *(1000.0 + n for n in range(8)))
    assert bytes(row) == bytes(codes) + scale + channels + outliers


def test_bfloat16_is_the_upper_half_of_float32() -> None:
    exact = np.array([[1.0, -2.5, 0.15625, 3e38]], np.float32)
    upper = (exact.view(np.uint32) >> 16).astype(np.uint16)
    upper[0, 3] += 1  # 3e38 lies nearer to the next one
    found = stored("bfloat16", torch.from_numpy(exact))
    np.testing.assert_array_equal(found, upper)


def test_float16_rounds_as_numpy_does() -> None:
    features = trained_like()
    found = stored("float16", features)
    np.testing.assert_array_equal(found, features.numpy().astype(np.float16))


def test_outliers_cost_int8_nothing_where_one_scale_a_token_loses_most() -> None:
    features, int8 = trained_like(width=1024), CODECS["int8"]
    ordinary = np.setdiff1d(np.arange(1024), [3, 50, 99])

    def error(decoded: Tensor) -> float:
        difference = (decoded - features)[:, ordinary]
        return float(difference.norm() / features[:, ordinary].norm())

    scales = features.abs().amax(dim=1, keepdim=True) / 127
    plain = (features / scales).round() * scales
    assert error(plain) > 0.3
    assert error(int8.decode(int8.encode(features))) < 0.01


@given(
    seed=st.integers(0, 2**32 - 1),
    width=st.integers(3, 40).map(lambda n: 4 * n),
    exponent=st.integers(-20, 12),
)
def test_int8_is_never_further_off_than_half_a_step(seed: int, width: int, exponent: int) -> None:
    rng, int8 = np.random.default_rng(seed), CODECS["int8"]
    features = torch.from_numpy(rng.standard_normal((3, width)).astype(np.float32) * 2.0**exponent)
    decoded = int8.decode(int8.encode(features))
    # Sorted by size, all but the 8 largest share a scale of the 9th largest / 127.
    ninth = features.abs().sort(dim=1, descending=True).values[:, 8:9]
    outlier_error = features.abs() * 2.0**-11 + 2.0**-25
    assert ((decoded - features).abs() <= (ninth / 127 * 0.5001).maximum(outlier_error)).all()


def test_a_token_of_zeros_and_equal_numbers_are_kept() -> None:
    features, int8 = torch.zeros(2, 12), CODECS["int8"]
    features[1] = 0.5
    assert int8.decode(int8.encode(features)).equal(features)


@pytest.mark.parametrize("codec", ["float16", "bfloat16", "int8"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_noticed(codec: CodecName, value: float) -> None:
    features = trained_like()
    assert CODECS[codec].all_finite(stored(codec, features))
    features[3, 70] = value
    assert not CODECS[codec].all_finite(stored(codec, features))


def test_what_is_no_stored_feature_map_is_refused() -> None:
    with pytest.raises(ShapeError, match="uint8 rows of 36 bytes more"):
        CODECS["int8"].decode(torch.zeros(2, 38, dtype=torch.uint8))
    for codec in CODECS.values():
        with pytest.raises(ShapeError, match=r"torch\.int32 .* codec " + codec.name):
            codec.decode(torch.zeros(2, 128, dtype=torch.int32))


def test_every_name_that_the_options_offer_has_its_codec() -> None:
    assert get_args(CodecName) == tuple(CODECS) == tuple(c.name for c in CODECS.values())
    for codec in CODECS.values():
        assert torch.empty(0, dtype=codec.torch_dtype).itemsize == np.dtype(codec.dtype).itemsize


@pytest.mark.parametrize("codec", ["float16", "bfloat16", "int8"])
def test_a_cache_gives_back_what_was_encoded_also_in_batches(
    codec: CodecName, manifest: Manifest, tmp_path: Path
) -> None:
    fingerprint = replace(manifest.fingerprint, feature_dim=128, num_feature_tokens=17)
    plan = Plan.from_keys(["a", "b", "c"], images_per_shard=2)
    manifest = replace(manifest, fingerprint=fingerprint, plan=plan, codec=codec, masks=False)
    write_manifest(tmp_path, manifest)
    maps = [stored(codec, trained_like(seed)) for seed in range(3)]
    samples = [
        CachedSample(
            key=key,
            image_id=number,
            size_hw=(2, 3),
            boxes_xyxy=np.zeros((1, 4), np.float32),
            labels=np.zeros(1, np.int64),
            box_scores=np.ones(1, np.float32),
            position_tokens=np.zeros((1, 4), np.float16),
            feature_map=maps[number],
            predicted_iou=np.ones(1, np.float32),
            file_name="one.jpg",
        )
        for number, key in enumerate("abc")
    ]
    write_shard(tmp_path, 0, samples[:2])
    write_shard(tmp_path, 1, samples[2:])
    build_index(tmp_path)
    with FeatureCache.open(tmp_path) as cache:
        for number in range(3):
            np.testing.assert_array_equal(cache.sample(number).feature_map, maps[number])
        batch = Collator([cache]).assemble(BatchPlan(number=0, source=0, images=np.array([2, 0])))
    for row, number in enumerate((2, 0)):
        wanted = CODECS[codec].decode(CODECS[codec].to_tensor(maps[number]))
        assert batch.features()[row].equal(wanted)
        assert batch.features().dtype == wanted.dtype
