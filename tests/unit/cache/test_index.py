import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from regionspot.cache import (
    CachedSample,
    CacheIndex,
    Manifest,
    Plan,
    build_index,
    index_path,
    quarantine_path,
    read_sidecar,
    sidecar_path,
    write_manifest,
    write_shard,
    write_sidecar,
)
from regionspot.core.errors import CacheCorruptError, MissingFileError


def test_the_index_lists_every_image_in_order(cache_dir: Path) -> None:
    index = CacheIndex.read(cache_dir)
    assert len(index) == 6
    assert index.keys.tolist() == [b"img_0", b"img_1", b"img_2", b"img_3", b"img_5", b"img_6"]
    assert index.key(4) == "img_5"
    assert index.image_ids.tolist() == [100, 101, 102, 103, 105, 106]
    assert index.sizes_hw.tolist() == [[480, 640 + number] for number in (0, 1, 2, 3, 5, 6)]
    assert index.num_regions.tolist() == [0, 1, 2, 0, 2, 0]
    assert index.shards.tolist() == [0, 0, 0, 1, 1, 2]
    assert index.shard_starts.tolist() == [0, 3, 5, 6]
    # each member takes 1024 bytes, and its data starts after 512 + 128 of them; masks have no
    # header of 128 bytes, and take only 512 bytes if there are none
    assert index.json_offsets.tolist() == [512, 8192, 16384, 512, 8192, 512]
    assert index.data_offsets[0].tolist() == [1664, 2688, 3712, 4736, 5760, 6784, 7680]
    assert index.tar_bytes.tolist() == [25088, 16896, 8704]
    assert index.num_quarantined == 1


def test_the_index_counts_labels(
    cache_dir: Path, make_sample: Callable[[int], CachedSample]
) -> None:
    labels = np.concatenate([make_sample(number).labels for number in (0, 1, 2, 3, 5, 6)])
    assert CacheIndex.read(cache_dir).label_counts.tolist() == [
        int((labels == label).sum()) for label in range(3)
    ]


def test_the_index_can_be_rebuilt_to_the_same_bytes(cache_dir: Path) -> None:
    before = index_path(cache_dir).read_bytes()
    index_path(cache_dir).unlink()
    built = build_index(cache_dir)
    assert index_path(cache_dir).read_bytes() == before
    np.testing.assert_array_equal(built.keys, CacheIndex.read(cache_dir).keys)


def test_quarantined_images_are_listed_with_reason_and_place(cache_dir: Path) -> None:
    lines = quarantine_path(cache_dir).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [
        {
            "shard": 1,
            "key": "img_4",
            "image_id": 104,
            "file_name": "a/b 4.jpg",
            "reason": "cannot be decoded: caf\u00e9",
        }
    ]


def test_a_layout_of_the_index_is_that_of_the_sidecar(cache_dir: Path) -> None:
    index = CacheIndex.read(cache_dir)
    for shard in range(3):
        found, wanted = index.layout(shard), read_sidecar(cache_dir, shard)
        for name in ("json_offsets", "data_offsets", "num_regions", "image_checksums"):
            np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
        for name in ("tar_bytes", "feature_map_form", "token_dim"):
            assert getattr(found, name) == getattr(wanted, name)


def test_an_unfinished_cache_has_no_index(
    tmp_path: Path, manifest: Manifest, write_tiny_shard: Callable[[Path, int], None]
) -> None:
    write_manifest(tmp_path, manifest)
    write_tiny_shard(tmp_path, 1)
    with pytest.raises(
        CacheCorruptError, match="2 of its 3 shards are missing, the first one is 0"
    ):
        build_index(tmp_path)
    with pytest.raises(MissingFileError, match="Rebuild it"):
        CacheIndex.read(tmp_path)


def test_shards_of_another_manifest_are_refused(cache_dir: Path, manifest: Manifest) -> None:
    write_manifest(cache_dir, replace(manifest, annotation_sha256="b" * 64))
    with pytest.raises(CacheCorruptError, match="another manifest"):
        build_index(cache_dir)


def test_a_damaged_sidecar_is_refused(cache_dir: Path) -> None:
    path = sidecar_path(cache_dir, 2)
    path.write_bytes(path.read_bytes().replace(b"106", b"107"))
    with pytest.raises(CacheCorruptError, match=r"000002\.json is damaged"):
        build_index(cache_dir)


def test_a_sidecar_that_forgets_images_or_has_unknown_labels_is_refused(cache_dir: Path) -> None:
    sidecar = read_sidecar(cache_dir, 1)
    for forged in (replace(sidecar, quarantined=()), replace(sidecar, label_counts=((3, 2),))):
        write_sidecar(cache_dir, forged)
        with pytest.raises(CacheCorruptError, match="the manifest plans 3 images and 3 classes"):
            build_index(cache_dir)


def test_one_key_in_two_shards_is_refused(
    tmp_path: Path, manifest: Manifest, make_sample: Callable[[int], CachedSample]
) -> None:
    plan = Plan(num_images=2, images_per_shard=1, num_shards=2, order_sha256="0")
    write_manifest(tmp_path, replace(manifest, plan=plan))
    write_shard(tmp_path, 0, [make_sample(1)])
    write_shard(tmp_path, 1, [make_sample(1)])
    with pytest.raises(CacheCorruptError, match="two images have the key 'img_1'"):
        build_index(tmp_path)
