"""What is stored of masks, predicted IoUs and file names, and how a stranger's are refused."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from helpers.files import flip_bit
from regionspot.cache import (
    CachedSample,
    FeatureCache,
    Manifest,
    Plan,
    build_index,
    check_masks,
    decode_masks,
    read_sidecar,
    shard_path,
    sidecar_path,
    write_manifest,
    write_shard,
)
from regionspot.core.errors import AnnotationError, CacheCorruptError, ShapeError

PLACES = {"json": 0, "predicted_iou.npy": 6, "masks.txt": 7}
"""Members that `FeatureCache.details` reads, and their columns in a sidecar."""


def test_details_are_those_of_the_sample(
    cache_dir: Path, make_sample: Callable[[int], CachedSample]
) -> None:
    with FeatureCache.open(cache_dir) as cache:
        for index, number in enumerate((0, 1, 2, 3, 5, 6)):
            found, wanted = cache.details(index), make_sample(number)
            assert (found.file_name, found.masks_rle) == (wanted.file_name, wanted.masks_rle)
            np.testing.assert_array_equal(found.predicted_iou, wanted.predicted_iou)
        for outside in (-1, 6):
            with pytest.raises(IndexError):
                cache.details(outside)


@pytest.mark.parametrize("member", PLACES)
def test_damage_of_details_is_found_and_other_damage_is_not_looked_for(
    cache_dir: Path, member: str
) -> None:
    sidecar = read_sidecar(cache_dir, 0)
    flip_bit(shard_path(cache_dir, 0), int(sidecar.offsets[2, 1]) + 130)  # the feature map
    with FeatureCache.open(cache_dir) as cache:
        assert cache.details(2).file_name == "caf\u00e9/2.jpg"
    at = int(sidecar.offsets[2, PLACES[member]] + sidecar.lengths[2, PLACES[member]] - 2)
    flip_bit(shard_path(cache_dir, 0), at)
    with (
        FeatureCache.open(cache_dir) as cache,
        pytest.raises(CacheCorruptError, match=rf"the {member} of image 2 is not what was written"),
    ):
        cache.details(2)


def test_details_need_the_sidecar_that_the_index_was_built_from(cache_dir: Path) -> None:
    with FeatureCache.open(cache_dir) as cache:
        cache.sample(0)
        sidecar_path(cache_dir, 0).write_bytes(sidecar_path(cache_dir, 1).read_bytes())
        with pytest.raises(CacheCorruptError, match=r"000000\.json"):
            cache.details(0)


@pytest.mark.parametrize("length", [1, 300, 420, 512, 5000])
def test_file_names_may_be_of_any_length(
    tmp_path: Path, manifest: Manifest, make_sample: Callable[[int], CachedSample], length: int
) -> None:
    write_manifest(tmp_path, replace(manifest, plan=Plan.from_keys(["img_2"], images_per_shard=1)))
    name = ("\u00e9/" * length)[:length]
    write_shard(tmp_path, 0, [replace(make_sample(2), file_name=name)])
    build_index(tmp_path)
    with FeatureCache.open(tmp_path) as cache:
        assert cache.sample(0).file_name == cache.details(0).file_name == name


@given(seed=st.integers(0, 2**32 - 1), height=st.integers(1, 40), width=st.integers(1, 40))
def test_masks_are_decoded_as_pycocotools_does(seed: int, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    masks = rng.random((3, height, width)) < rng.random((3, 1, 1))
    rles = coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0), np.uint8))
    counts = [rle["counts"] for rle in rles]
    check_masks(counts, (height, width))
    np.testing.assert_array_equal(np.stack(list(decode_masks(counts, (height, width)))), masks)


@pytest.mark.parametrize(
    "counts", [b"", b"0", b"X", b"PPo" * 9, b"\xff", b"\x00", b"oooooooooooooooo0", b"`b0O", b"o"]
)
def test_masks_of_other_pixels_than_the_image_are_refused(counts: bytes) -> None:
    sound = coco_mask.encode(np.ones((30, 40), np.uint8, order="F"))["counts"]
    for refuse in (check_masks, lambda *of: list(decode_masks(*of))):
        with pytest.raises(CacheCorruptError, match="mask of region 1.*pixels of an image of 40 x"):
            refuse([sound, counts], (30, 40))
    with pytest.raises(CacheCorruptError, match="mask of region 0"):
        check_masks([sound], (30, 41))


@given(counts=st.binary(max_size=40), height=st.integers(1, 99), width=st.integers(1, 99))
def test_any_bytes_are_a_mask_of_the_image_or_refused(
    counts: bytes, height: int, width: int
) -> None:
    with suppress(CacheCorruptError):
        (mask,) = decode_masks([counts], (height, width))
        assert mask.shape == (height, width)


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../a.jpg", "a/../../b.jpg", "a/.."])
def test_file_names_outside_of_the_images_folder_are_refused(
    tmp_path: Path,
    manifest: Manifest,
    make_sample: Callable[[int], CachedSample],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    with pytest.raises(AnnotationError, match=r"img_2: the file name .* is not a path below"):
        replace(make_sample(2), file_name=name)
    forged = make_sample(2)
    object.__setattr__(forged, "file_name", name)
    write_manifest(tmp_path, replace(manifest, plan=Plan.from_keys(["img_2"], images_per_shard=1)))
    write_shard(tmp_path, 0, [forged])
    build_index(tmp_path)
    with FeatureCache.open(tmp_path) as cache:
        for read in (cache.sample, cache.details):
            with pytest.raises(CacheCorruptError, match="no file name below the images folder"):
                read(0)


def test_another_number_of_masks_than_regions_is_damage(
    tmp_path: Path,
    manifest: Manifest,
    make_sample: Callable[[int], CachedSample],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("regionspot.cache.shard_writer.check_sample", lambda *_: None)
    write_manifest(tmp_path, replace(manifest, plan=Plan.from_keys(["img_2"], images_per_shard=1)))
    write_shard(tmp_path, 0, [replace(make_sample(2), masks_rle=(b"04", b"0\n4"))])
    build_index(tmp_path)
    with FeatureCache.open(tmp_path) as cache:
        for read in (cache.sample, cache.details):
            with pytest.raises(CacheCorruptError, match="image 0 has 3 masks of 2 regions"):
                read(0)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("predicted_iou", np.full(1, np.nan, np.float32), "predicted_iou holds values that are"),
        ("predicted_iou", np.zeros(2, np.float32), r"predicted_iou is float32 \(2,\)"),
        ("predicted_iou", np.zeros(1), r"predicted_iou is float64"),
        ("masks_rle", (b"04", b"04"), "2 masks of 1 regions"),
        ("masks_rle", (b"",), "empty or broken counts"),
        ("masks_rle", (b"0\n4",), "empty or broken counts"),
    ],
)
def test_what_cannot_be_stored_is_refused(
    tmp_path: Path,
    manifest: Manifest,
    make_sample: Callable[[int], CachedSample],
    name: str,
    value: Any,
    message: str,
) -> None:
    write_manifest(tmp_path, manifest)
    with pytest.raises(ShapeError, match=message):
        write_shard(tmp_path, 0, [replace(make_sample(1), **{name: value})])
