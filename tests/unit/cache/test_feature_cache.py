import pickle
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import h5py
import numpy as np
import pytest

from helpers.files import tree
from helpers.processes import Fork
from helpers.writers import die_in_shard_1
from regionspot.cache import (
    CachedSample,
    CacheIndex,
    FeatureCache,
    Fingerprint,
    Manifest,
    build_index,
    index_path,
    manifest_path,
    shard_is_complete,
    shard_path,
    sidecar_path,
    text_banks_path,
    write_manifest,
    write_shard,
)
from regionspot.core.errors import CacheCorruptError, CacheMismatchError, MissingFileError

NUMBERS = (0, 1, 2, 3, 5, 6)


def test_a_cache_returns_every_image_in_order(
    cache_dir: Path, manifest: Manifest, make_sample: Callable[[int], CachedSample]
) -> None:
    with FeatureCache.open(cache_dir) as cache:
        assert len(cache) == 6
        assert cache.path == cache_dir
        assert cache.manifest == manifest
        for index, number in enumerate(NUMBERS):
            found, wanted = cache.sample(index), make_sample(number)
            assert (found.key, found.image_id, found.size_hw) == (
                wanted.key,
                wanted.image_id,
                wanted.size_hw,
            )
            for ours, theirs in zip(found.arrays, wanted.arrays, strict=True):
                np.testing.assert_array_equal(ours, theirs)
        for index in (-1, 6):
            with pytest.raises(IndexError):
                cache.sample(index)


def test_the_text_bank_is_that_of_the_vocabulary(cache_dir: Path) -> None:
    cache = FeatureCache.open(cache_dir)
    np.testing.assert_array_equal(cache.text_bank("single"), np.eye(3, dtype=np.float32))
    with pytest.raises(MissingFileError, match="'ensemble81'; there are: single"):
        cache.text_bank("ensemble81")
    text_banks_path(cache_dir).unlink()
    with pytest.raises(MissingFileError, match="there are: none"):
        cache.text_bank("single")


def test_two_caches_of_the_same_inputs_are_the_same_trees(
    tmp_path: Path, make_cache: Callable[[Path], Path]
) -> None:
    first = make_cache(tmp_path / "one")
    time.sleep(1.1)  # a second, so that time stamps would show
    second = make_cache(tmp_path / "two")
    assert tree(first) == tree(second)
    assert sorted(tree(first)) == [
        "index.h5",
        "manifest.json",
        "quarantine.jsonl",
        "shards/000000.json",
        "shards/000000.tar",
        "shards/000001.json",
        "shards/000001.tar",
        "shards/000002.json",
        "shards/000002.tar",
        "text_banks.h5",
    ]


def test_a_killed_run_is_finished_to_the_same_tree(
    tmp_path: Path,
    manifest: Manifest,
    make_cache: Callable[[Path], Path],
    write_tiny_shard: Callable[[Path, int], None],
) -> None:
    wanted = tree(make_cache(tmp_path / "in one go"))
    killed = tmp_path / "killed"
    write_manifest(killed, manifest)
    write_tiny_shard(killed, 0)
    # killed while the tar of shard 1 was written, and between tar and sidecar of shard 2
    write_tiny_shard(killed, 1)
    shard_path(killed, 1).rename(shard_path(killed, 1).with_suffix(".tar.tmp"))
    sidecar_path(killed, 1).unlink()
    write_tiny_shard(killed, 2)
    sidecar_path(killed, 2).rename(sidecar_path(killed, 2).with_suffix(".json.tmp"))
    assert [shard_is_complete(killed, shard) for shard in range(3)] == [True, False, False]
    with pytest.raises(CacheCorruptError, match="not finished"):
        FeatureCache.open(killed)
    make_cache(killed)
    assert tree(killed) == wanted


def test_a_process_that_dies_in_a_shard_leaves_the_finished_ones(cache_dir: Path) -> None:
    assert Fork(die_in_shard_1, cache_dir).ended()[0] == -signal.SIGKILL
    assert [shard_is_complete(cache_dir, shard) for shard in range(3)] == [True, False, True]


def test_a_cache_can_be_pickled_and_read_from_threads(cache_dir: Path) -> None:
    cache = pickle.loads(pickle.dumps(FeatureCache.open(cache_dir)))  # noqa: S301
    with ThreadPoolExecutor(4) as pool:
        keys = list(pool.map(lambda index: cache.sample(index % 6).key, range(60)))
    assert keys == [f"img_{number}" for number in NUMBERS] * 10


def test_samples_outlive_a_closed_cache_and_a_closed_cache_reads_on(cache_dir: Path) -> None:
    cache = FeatureCache.open(cache_dir)
    sample = cache.sample(2)
    before = sample.feature_map.copy()
    cache.close()
    np.testing.assert_array_equal(sample.feature_map, before)
    assert cache.sample(2).key == sample.key


def test_another_fingerprint_is_refused_naming_the_fields(
    cache_dir: Path, fingerprint: Fingerprint
) -> None:
    FeatureCache.open(cache_dir, fingerprint=fingerprint)
    other = replace(fingerprint, clip_model="ViT-B-16-quickgelu", token_site="mlp")  # noqa: S106
    with pytest.raises(
        CacheMismatchError, match=r"(?s)clip_model: found.*token_site: found"
    ) as caught:
        FeatureCache.open(cache_dir, fingerprint=other)
    assert "sam_model" not in str(caught.value)


def test_a_folder_that_is_no_cache_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(MissingFileError, match="no feature cache"):
            FeatureCache.open(path)


def test_an_unfinished_cache_says_how_to_finish_it(cache_dir: Path) -> None:
    index_path(cache_dir).unlink()
    with pytest.raises(
        CacheCorruptError, match=r"index.h5 is missing.*again to finish it: python cache"
    ):
        FeatureCache.open(cache_dir)
    sidecar_path(cache_dir, 1).unlink()
    with pytest.raises(
        CacheCorruptError, match=r"1 of its 3 shards are missing, the first one is 1"
    ):
        FeatureCache.open(cache_dir)


def test_a_cut_tar_is_refused_before_anything_is_mapped(cache_dir: Path) -> None:
    with shard_path(cache_dir, 2).open("r+b") as file:
        file.truncate(4096)
    with pytest.raises(CacheCorruptError, match=r"000002\.tar has 4096 bytes; wanted 8704"):
        FeatureCache.open(cache_dir)


def test_a_tar_that_is_cut_after_opening_is_refused_too(cache_dir: Path) -> None:
    cache = FeatureCache.open(cache_dir)
    with shard_path(cache_dir, 2).open("r+b") as file:
        file.truncate(4096)
    with pytest.raises(CacheCorruptError, match="4096 bytes"):
        cache.sample(5)


def test_a_manifest_put_there_later_is_refused(cache_dir: Path, manifest: Manifest) -> None:
    write_manifest(cache_dir, replace(manifest, name="renamed"))
    with pytest.raises(CacheCorruptError, match="not the one that the cache was made with"):
        FeatureCache.open(cache_dir)


def test_flipped_bits_in_manifest_and_index_are_refused_at_once(cache_dir: Path) -> None:
    for path in (manifest_path(cache_dir), index_path(cache_dir)):
        good = path.read_bytes()
        damaged = bytearray(good)
        damaged[len(good) // 2] ^= 4
        path.write_bytes(damaged)
        with pytest.raises((CacheCorruptError, CacheMismatchError)):
            FeatureCache.open(cache_dir)
        path.write_bytes(good)
    FeatureCache.open(cache_dir)


def test_a_shard_that_the_index_was_not_built_from_is_refused(
    cache_dir: Path, make_sample: Callable[[int], CachedSample]
) -> None:
    # image 0 in place of image 6: both have no region, so that every size agrees
    old_index = index_path(cache_dir).read_bytes()
    write_shard(cache_dir, 2, [make_sample(0)])
    assert shard_path(cache_dir, 2).stat().st_size == 8704
    index_path(cache_dir).write_bytes(old_index)
    cache = FeatureCache.open(cache_dir)
    with pytest.raises(CacheCorruptError, match="000002.json is not the one that index.h5 was"):
        cache.sample(5)
    with pytest.raises(CacheCorruptError, match="two images"):
        build_index(cache_dir)


def test_a_sample_with_another_key_than_the_index_says_is_refused(cache_dir: Path) -> None:
    index = CacheIndex.read(cache_dir)
    keys = index.keys.copy()
    keys[[0, 5]] = keys[[5, 0]]
    with h5py.File(index_path(cache_dir), "r+") as h5:
        h5["keys"][...] = keys
    data = index_path(cache_dir).read_bytes()
    seal = sha256(data[512:]).hexdigest().encode()
    old = data[:512].split(b"\n")[1]
    index_path(cache_dir).write_bytes(data[:512].replace(old, seal) + data[512:])
    with pytest.raises(
        CacheCorruptError, match="holds the image 'img_6' where index.h5 says 'img_0'"
    ):
        FeatureCache.open(cache_dir).sample(5)


def test_every_flipped_bit_of_an_image_is_refused_when_it_is_read_first(cache_dir: Path) -> None:
    path = shard_path(cache_dir, 2)  # one image, from the first byte to the end of the tar
    good = path.read_bytes()
    for position in range(0, len(good), 7):
        damaged = bytearray(good)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(CacheCorruptError, match=r"000002\.tar is damaged.*cache repair"):
            FeatureCache.open(cache_dir).sample(5)
    path.write_bytes(good)
    cache = FeatureCache.open(cache_dir)
    assert cache.sample(5).key == "img_6"


def test_a_damaged_or_missing_sidecar_is_refused_when_its_shard_is_read_first(
    cache_dir: Path,
) -> None:
    path = sidecar_path(cache_dir, 1)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("643", "644"), encoding="utf-8")
    cache = FeatureCache.open(cache_dir)
    assert cache.sample(0).key == "img_0"
    with pytest.raises(CacheCorruptError, match=r"000001\.json"):
        cache.sample(3)
    path.unlink()
    with pytest.raises(CacheCorruptError, match=r"000001\.json is missing.*cache repair"):
        cache.sample(3)
