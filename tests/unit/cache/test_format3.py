"""Caches of format 3 stay readable; the stored one was written before format 4 existed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.files import flip_bit, tree
from helpers.format3 import as_format3, unpack_format3
from regionspot.cache import (
    BatchTargets,
    CachedSample,
    CacheMerge,
    FeatureCache,
    ImageDetails,
    Manifest,
    check_same_manifest,
    collect_stats,
    read_labels,
    read_manifest,
    shard_path,
    verify_cache,
    write_manifest,
    write_shard,
)
from regionspot.core.errors import CacheMismatchError, ConfigError, ShapeError


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return unpack_format3(tmp_path / "old")


def test_formats_3_and_4_give_the_same_arrays(old: Path, cache_dir: Path) -> None:
    with FeatureCache.open(old) as ours, FeatureCache.open(cache_dir) as theirs:
        assert (ours.has_predicted_iou, ours.has_masks) == (False, False)
        assert (theirs.has_predicted_iou, theirs.has_masks) == (True, True)
        assert len(ours) == len(theirs) == 6
        for index in range(6):
            found, wanted = ours.sample(index), theirs.sample(index)
            assert (found.key, found.image_id, found.size_hw) == (
                wanted.key,
                wanted.image_id,
                wanted.size_hw,
            )
            for a, b in zip(found.arrays, wanted.arrays, strict=True):
                assert a.dtype == b.dtype
                np.testing.assert_array_equal(a, b)
            assert (found.predicted_iou, found.masks_rle, found.file_name) == (None, None, None)
            assert ours.details(index) == ImageDetails()
        np.testing.assert_array_equal(read_labels(ours), read_labels(theirs))


def test_an_old_cache_is_verified_and_described(old: Path) -> None:
    assert verify_cache(old) == []
    assert collect_stats(old).num_regions == 5
    flip_bit(shard_path(old, 2), 2000, bit=1)
    assert [problem.shard for problem in verify_cache(old)] == [2]


def test_format_3_is_written_to_the_bytes_that_it_had(
    old: Path, cache_dir: Path, tmp_path: Path
) -> None:
    ours, wanted = tree(as_format3(cache_dir, tmp_path / "ours")), tree(old)
    for files in (ours, wanted):
        del files["text_banks.h5"]  # the same in both formats, but for its number
    assert ours == wanted


def test_formats_3_and_4_fill_batches_alike(old: Path, cache_dir: Path) -> None:
    images = np.array([5, 2, 4])
    filled = []
    for folder in (old, cache_dir):
        tensors = (
            torch.zeros((3, 5, 6), dtype=torch.float16),
            torch.zeros((3, 2, 4), dtype=torch.float16),
            torch.zeros((3, 2, 4)),
            torch.zeros((3, 2), dtype=torch.int64),
            torch.zeros((3, 2)),
        )
        targets = BatchTargets(
            tensors, feature_map_shape=(5, 6), feature_map_dtype=torch.float16, token_dim=4
        )
        with FeatureCache.open(folder) as cache:
            cache.copy_arrays(images, targets)
        filled.append(tensors)
    assert filled[0][1].any()
    for ours, theirs in zip(*filled, strict=True):
        assert torch.equal(ours, theirs)


def test_a_job_of_today_continues_a_cache_of_format_3(old: Path, manifest: Manifest) -> None:
    found = read_manifest(old)
    check_same_manifest(found, replace(manifest, masks=False))
    with pytest.raises(CacheMismatchError, match="masks: found False, wanted True"):
        check_same_manifest(found, manifest)
    with pytest.raises(ConfigError, match="version 3 cannot store masks"):
        replace(manifest, schema_version=3)


def test_old_caches_are_merged_with_each_other_but_not_with_new_ones(
    old: Path, cache_dir: Path, tmp_path: Path
) -> None:
    merged = tmp_path / "merged"
    CacheMerge([old], images_per_shard=4).write(merged)
    assert read_manifest(merged).schema_version == 3
    with FeatureCache.open(merged) as ours, FeatureCache.open(old) as theirs:
        for index in range(6):
            for a, b in zip(ours.sample(index).arrays, theirs.sample(index).arrays, strict=True):
                np.testing.assert_array_equal(a, b)
    assert verify_cache(merged) == []
    with pytest.raises(CacheMismatchError, match=r"(?s)schema_version: found 4, wanted 3.*--reuse"):
        CacheMerge([old, cache_dir], images_per_shard=4)


def test_new_members_may_not_be_missing(
    tmp_path: Path, manifest: Manifest, make_sample: Callable[[int], CachedSample]
) -> None:
    write_manifest(tmp_path, manifest)
    nothing: Any = None
    for name in ("predicted_iou", "masks_rle", "file_name"):
        lacking = replace(make_sample(1), **{name: nothing})
        with pytest.raises(ShapeError, match=f"img_1 has no {name}"):
            write_shard(tmp_path, 0, [lacking])
