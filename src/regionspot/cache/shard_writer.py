"""Writes shards: samples are checked, streamed into the tar, and described in the sidecar."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from regionspot.cache.feature_codec import StoredForm
from regionspot.cache.layout import (
    ARRAY_MEMBERS,
    CACHE_COMMAND,
    MASKS,
    PREDICTED_IOU,
    manifest_path,
    shard_path,
    sidecar_path,
)
from regionspot.cache.manifest import Manifest, read_manifest
from regionspot.cache.member_bytes import TarWriter, WrittenMember, encode_array
from regionspot.cache.sample import CachedSample
from regionspot.cache.sealed import open_sealed_json
from regionspot.cache.sidecar import (
    QuarantinedImage,
    ShardSidecar,
    read_sidecar,
    write_sidecar,
)
from regionspot.core.errors import AnnotationError, RegionSpotError, ShapeError
from regionspot.core.files import open_atomic


def write_shard(
    cache_dir: Path,
    shard_index: int,
    samples: Iterable[CachedSample],
    quarantined: Sequence[QuarantinedImage] = (),
) -> ShardSidecar:
    """Write one shard and its sidecar; a crash at any moment leaves the shard absent or whole.

    The manifest must exist. Samples are streamed: one at a time is held in memory. The bytes of the
    tar depend on the samples only. What the manifest's version of the format does not store of them
    is left out.

    Args:
        cache_dir: The cache's folder.
        shard_index: Number of the shard in the manifest's plan, counted from 0.
        samples: The shard's images in the order of the plan, without the quarantined ones.
        quarantined: The shard's images that could not be used. It is read after the last sample, so
            the iterable of samples may still add to it.

    Returns:
        The sidecar, as it was written.
    """
    manifest = read_manifest(cache_dir)
    num_planned = len(manifest.plan.images_of(shard_index))
    # Without its sidecar the old shard counts as absent while its tar is replaced.
    sidecar_path(cache_dir, shard_index).unlink(missing_ok=True)
    keys: list[str] = []
    rows: list[tuple[int, ...]] = []
    members: list[list[WrittenMember]] = []
    label_counts: Counter[int] = Counter()
    with open_atomic(shard_path(cache_dir, shard_index)) as file:
        tar = TarWriter(file)
        for sample in samples:
            check_sample(sample, manifest)
            members.append(_add_sample(tar, sample, manifest))
            keys.append(sample.key)
            counts = (sample.num_regions, sample.num_clipped_regions, sample.num_dropped_regions)
            rows.append((sample.image_id, *sample.size_hw, *counts))
            label_counts.update(sample.labels[sample.labels >= 0].tolist())
        tar_sha256 = tar.finish()
        _check_plan(keys, quarantined, num_planned, f"shard {shard_index} of {cache_dir}")
    numbers = np.array(rows, np.int64).reshape(-1, 6)
    places = np.array(members, np.int64).reshape(-1, len(manifest.members), 3)
    sidecar = ShardSidecar(
        schema_version=manifest.schema_version,
        shard=shard_index,
        manifest_sha256=manifest.sha256,
        tar_bytes=tar.num_bytes,
        tar_sha256=tar_sha256,
        feature_map_form=manifest.feature_map_form,
        token_dim=manifest.fingerprint.token_dim,
        keys=tuple(keys),
        image_ids=numbers[:, 0],
        sizes_hw=numbers[:, 1:3],
        num_regions=numbers[:, 3],
        offsets=places[..., 0],
        lengths=places[..., 1],
        checksums=places[..., 2],
        image_checksums=np.array(tar.image_checksums, np.uint64),
        label_counts=tuple(sorted(label_counts.items())),
        num_clipped_regions=int(numbers[:, 4].sum()),
        num_dropped_regions=int(numbers[:, 5].sum()),
        quarantined=tuple(quarantined),
    )
    write_sidecar(cache_dir, sidecar)
    return sidecar


def _check_plan(
    keys: Sequence[str], quarantined: Sequence[QuarantinedImage], num_planned: int, where: str
) -> None:
    """Refuse a shard unless every planned image is there once, as a sample or quarantined."""
    all_keys = [*keys, *(image.key for image in quarantined)]
    if len(set(all_keys)) != len(all_keys):
        twice = Counter(all_keys).most_common(1)[0][0]
        raise AnnotationError(f"{where}: two images have the key {twice!r}; wanted unique keys.")
    if len(all_keys) != num_planned:
        raise ShapeError(
            f"{where} was given {len(keys)} samples and {len(quarantined)} quarantined images; its"
            f" plan has {num_planned} images, each of which must be one or the other."
        )


def check_sample(sample: CachedSample, manifest: Manifest) -> None:
    """Raise `ShapeError` if a sample does not fit the manifest, or a value is not finite."""
    form, token_dim = manifest.feature_map_form, manifest.fingerprint.token_dim
    found = StoredForm(dtype=sample.feature_map.dtype.str, shape=sample.feature_map.shape)
    if found != form or sample.position_tokens.shape[1] != token_dim:
        raise ShapeError(
            f"image {sample.key}: feature map {found.dtype} {found.shape}, position tokens"
            f" {sample.position_tokens.shape}; the manifest promises {form.dtype} {form.shape} and"
            f" (R, {token_dim})."
        )
    low, high = (0, len(manifest.vocabulary) - 1) if manifest.proposals is None else (-1, -1)
    if sample.num_regions and not low <= sample.labels.min() <= sample.labels.max() <= high:
        why = f"the vocabulary has {high + 1} names" if high >= 0 else "proposals have no class"
        raise ShapeError(
            f"image {sample.key}: labels reach from {sample.labels.min()} to"
            f" {sample.labels.max()}; wanted {low} to {high}, as {why}."
        )
    if not ((sample.box_scores >= 0) & (sample.box_scores <= 1)).all():
        raise ShapeError(
            f"image {sample.key}: box_scores are {sample.box_scores.tolist()}; wanted 0 to 1."
        )
    for name, array in zip(ARRAY_MEMBERS, sample.arrays, strict=True):
        is_map = array is sample.feature_map
        if not (manifest.feature_codec.all_finite(array) if is_map else np.isfinite(array).all()):
            raise ShapeError(
                f"image {sample.key}: {name} holds values that are not finite. A number above"
                " 65504 does not fit into float16; check the image, and the dtype in which"
                " the frozen models run."
            )
    _check_extras(sample, manifest)


def _check_extras(sample: CachedSample, manifest: Manifest) -> None:
    """Raise `ShapeError` if a sample lacks what version 4 adds, or it cannot be stored."""
    wanted = {
        "predicted_iou": PREDICTED_IOU in manifest.members,
        "file_name": PREDICTED_IOU in manifest.members,
        "masks_rle": MASKS in manifest.members,
    }
    for name, is_wanted in wanted.items():
        if is_wanted and getattr(sample, name) is None:
            raise ShapeError(
                f"image {sample.key} has no {name}, which this cache of schema version"
                f" {manifest.schema_version} stores."
            )
    if sample.predicted_iou is not None and not np.isfinite(sample.predicted_iou).all():
        raise ShapeError(f"image {sample.key}: predicted_iou holds values that are not finite.")
    if any(not counts or b"\n" in counts or b"\0" in counts for counts in sample.masks_rle or ()):
        raise ShapeError(
            f"image {sample.key}: masks_rle holds empty or broken counts; wanted those of COCO's"
            " compressed RLE."
        )


def _add_sample(tar: TarWriter, sample: CachedSample, manifest: Manifest) -> list[WrittenMember]:
    payloads = [sample_json(sample, manifest.schema_version), *map(encode_array, sample.arrays)]
    if sample.predicted_iou is not None:
        payloads.append(encode_array(sample.predicted_iou))
    if sample.masks_rle is not None:
        payloads.append(b"".join(counts + b"\n" for counts in sample.masks_rle))
    tar.begin_image()
    return [
        tar.add(f"{sample.key}.{member}", payload)
        for member, payload in zip(manifest.members, payloads, strict=False)
    ]


def sample_json(sample: CachedSample, schema_version: int) -> bytes:
    """Return the bytes of an image's ``json`` member, ASCII."""
    values: dict[str, object] = {
        "image_id": sample.image_id,
        "key": sample.key,
        "num_clipped_regions": sample.num_clipped_regions,
        "num_dropped_regions": sample.num_dropped_regions,
        "num_regions": sample.num_regions,
        "size_hw": list(sample.size_hw),
    }
    if schema_version > 3:
        values["file_name"] = sample.file_name
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode("ascii")


def shard_is_complete(cache_dir: Path, shard_index: int) -> bool:
    """Return whether a shard was finished under the current manifest, without reading its tar.

    A shard with a damaged sidecar, or a tar of another size, counts as absent and can be written
    again. Only `verify_cache` finds damage that leaves the size as it is.
    """
    _, manifest_sha256 = open_sealed_json(
        manifest_path(cache_dir), remedy=f"Begin with the manifest: {CACHE_COMMAND}"
    )
    tar = shard_path(cache_dir, shard_index)
    if not tar.is_file() or not sidecar_path(cache_dir, shard_index).is_file():
        return False
    try:
        sidecar = read_sidecar(cache_dir, shard_index)
    except RegionSpotError:
        return False
    return sidecar.tar_bytes == tar.stat().st_size and sidecar.manifest_sha256 == manifest_sha256
