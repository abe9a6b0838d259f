"""Damage, class by class: verify and training refuse it all; the stock reader mostly does not."""

import gc
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import webdataset

from regionspot.cache import FeatureCache, read_sidecar, shard_path, verify_cache
from regionspot.core.errors import CacheCorruptError, CacheMismatchError

MakeCache = Callable[..., Path]
BLOCK = 512
NUM_FLIPS = 25


@pytest.fixture
def cache(make_cache: MakeCache) -> Iterator[Path]:
    yield make_cache(num_images=3)
    # The stock reader leaves closing its files to the garbage collector, which else would complain
    # in the middle of some other test.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


def places_of(cache: Path) -> dict[str, list[range]]:
    """Where each class of bytes lies in the first shard's tar."""
    sidecar = read_sidecar(cache, 0)
    places: dict[str, list[range]] = {"header": [], "payload": [], "padding": []}
    for offset, length in zip(sidecar.offsets.ravel(), sidecar.lengths.ravel(), strict=True):
        start, stop = int(offset), int(offset + length)
        places["header"].append(range(start - BLOCK, start))
        places["payload"].append(range(start, stop))
        places["padding"].append(range(stop, -(-stop // BLOCK) * BLOCK))
    return places


def flips(spans: list[range], seed: int) -> Iterator[tuple[int, int]]:
    rng = np.random.default_rng(seed)
    positions = np.concatenate([np.asarray(span) for span in spans])
    for position in rng.choice(positions, NUM_FLIPS, replace=False).tolist():
        yield position, int(rng.integers(8))


def read_by_webdataset(path: Path) -> bool:
    """Say whether the stock reader gets through the shard without an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for sample in webdataset.WebDataset(str(path), shardshuffle=False).decode():
                sample["feature_map.npy"].sum()
        except Exception:  # noqa: BLE001 - whatever it raises, it did not pass the damage over
            return False
    return True


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_no_flipped_bit_is_passed_over_though_the_stock_reader_does(cache: Path) -> None:
    path, silent = shard_path(cache, 0), dict.fromkeys(places_of(cache), 0)
    good = path.read_bytes()
    for seed, (name, spans) in enumerate(places_of(cache).items()):
        for position, bit in flips(spans, seed):
            damaged = bytearray(good)
            damaged[position] ^= 1 << bit
            path.write_bytes(damaged)
            (problem, *_) = verify_cache(cache)
            assert problem.shard == 0, (name, position, bit)
            silent[name] += read_by_webdataset(path)
    path.write_bytes(good)
    assert verify_cache(cache) == []
    # The comparison: of the same damage the stock reader is silent about some of every class.
    assert silent["padding"] == NUM_FLIPS
    assert silent["payload"] > 0
    assert silent["header"] > 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_no_cut_at_a_block_is_passed_over_though_the_stock_reader_does(cache: Path) -> None:
    path, num_silent = shard_path(cache, 0), 0
    good = path.read_bytes()
    for length in range(0, len(good), BLOCK):
        path.write_bytes(good[:length])
        (problem, *_) = verify_cache(cache)
        assert problem.shard == 0, length
        num_silent += read_by_webdataset(path)
    assert num_silent > 0


def refused_by_training(cache: Path) -> bool:
    """Say whether a damaged cache is refused at the latest when its images are read."""
    try:
        with FeatureCache.open(cache) as opened:
            for index in range(len(opened)):
                opened.sample(index)
    except (CacheCorruptError, CacheMismatchError):
        return True
    return False


SEALED = {
    "sidecar": "shards/000000.json",
    "index": "index.h5",
    "manifest": "manifest.json",
}


@pytest.mark.parametrize("name", ["header", "payload", "padding"])
def test_training_refuses_every_flipped_bit_of_a_shard(name: str, cache: Path) -> None:
    path, spans = shard_path(cache, 0), places_of(cache)[name]
    good = path.read_bytes()
    for position, bit in flips(spans, list(places_of(cache)).index(name)):
        damaged = bytearray(good)
        damaged[position] ^= 1 << bit
        path.write_bytes(damaged)
        assert refused_by_training(cache), (position, bit)
    path.write_bytes(good)
    assert not refused_by_training(cache)


@pytest.mark.parametrize("name", SEALED)
def test_every_flipped_bit_of_what_describes_the_shards_is_refused_and_reported(
    name: str, cache: Path
) -> None:
    path = cache / SEALED[name]
    good = path.read_bytes()
    for position, bit in flips([range(len(good))], 7):
        damaged = bytearray(good)
        damaged[position] ^= 1 << bit
        path.write_bytes(damaged)
        assert refused_by_training(cache), (position, bit)
        assert verify_cache(cache), (position, bit)
    path.write_bytes(good)
    assert not refused_by_training(cache)


def test_training_refuses_every_cut_at_a_block(cache: Path) -> None:
    path = shard_path(cache, 0)
    good = path.read_bytes()
    for length in range(0, len(good), BLOCK):
        path.write_bytes(good[:length])
        assert refused_by_training(cache), length
