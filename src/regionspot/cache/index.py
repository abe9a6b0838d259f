"""The index: where every image is, in arrays that load in a second for millions of images.

`build_index` makes it, and the list of quarantined images, from the sidecars, at any time. Its seal
proves that an index was not changed, not who wrote it: a cache may come from a stranger. Arrays are
copied out of memory maps by its numbers, so all of them are checked when a cache is opened.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from regionspot.cache.cache_files import CacheFiles
from regionspot.cache.feature_codec import StoredForm
from regionspot.cache.layout import (
    ARRAY_MEMBERS,
    CACHE_COMMAND,
    MAX_KEY_LENGTH,
    MEMBERS,
    index_path,
    quarantine_path,
    shard_path,
    sidecar_path,
)
from regionspot.cache.manifest import Manifest, read_manifest
from regionspot.cache.sealed import hdf5_array, open_sealed_hdf5, write_sealed_hdf5
from regionspot.cache.sidecar import ShardLayout, ShardSidecar, read_sealed_sidecar
from regionspot.core.errors import CacheCorruptError
from regionspot.core.files import canonical_json, sha256_bytes, write_bytes_atomic

_COMMAND = f"Rebuild it: {CACHE_COMMAND}"

_COLUMNS: dict[str, tuple[str, str]] = {
    "keys": ("S", "N"),
    "image_ids": ("i8", "N"),
    "sizes_hw": ("i4", "N2"),
    "num_regions": ("i4", "N"),
    "shards": ("i4", "N"),
    "json_offsets": ("i8", "N"),
    "data_offsets": ("i8", "NM"),
    "image_checksums": ("u8", "N"),
    "label_counts": ("i8", "C"),
    "tar_bytes": ("i8", "K"),
    "sidecar_sha256": ("S", "K"),
}
"""Dtype and shape of each column of an index: N images, K shards, C classes, M of the members
beside ``json``, or a number."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CacheIndex:
    """Where every image of a cache is. N images without quarantined ones, C classes, K shards.

    Images are in the order of the plan: by shard, and within a shard as in its tar.
    """

    manifest_sha256: str
    """Seal of the cache's manifest."""
    feature_map_dtype: str
    """NumPy's name of the dtype of stored feature maps."""
    num_quarantined: int
    """Number of planned images that are not in the cache."""
    num_clipped_regions: int
    """Number of regions whose box was clipped when their image was decoded."""
    num_dropped_regions: int
    """Number of regions that were dropped then."""
    num_feature_tokens: int
    """Number of tokens of every feature map, T."""
    feature_map_width: int
    """Width of stored feature maps: D, or W for int8."""
    token_dim: int
    """Width of every position token, S."""
    keys: NDArray[np.bytes_]
    """Key of each image, ASCII, (N,)."""
    image_ids: NDArray[np.int64]
    """The data set's own id of each image, (N,)."""
    sizes_hw: NDArray[np.int32]
    """Height and width of each original image in pixels, (N, 2)."""
    num_regions: NDArray[np.int32]
    """Regions of each image, (N,)."""
    shards: NDArray[np.int32]
    """Shard of each image, (N,), ascending."""
    json_offsets: NDArray[np.int64]
    """Where the ``json`` member of each image starts in its tar, (N,)."""
    data_offsets: NDArray[np.int64]
    """Where the data of the other members of each image starts, (N, M), columns as `MEMBERS[1:]`,
    of which the last ones may be absent: see `ShardLayout`."""
    image_checksums: NDArray[np.uint64]
    """XXH3-64 over all bytes of each image in its tar, (N,)."""
    label_counts: NDArray[np.int64]
    """Regions of each class of the vocabulary, (C,)."""
    tar_bytes: NDArray[np.int64]
    """Size of each shard's tar, (K,)."""
    sidecar_sha256: NDArray[np.bytes_]
    """Seal of each shard's sidecar, (K,)."""
    shard_starts: NDArray[np.int64] = field(init=False)
    """Position of the first image of each shard, and N at the end, (K + 1,)."""

    def __post_init__(self) -> None:
        starts = np.searchsorted(self.shards, np.arange(len(self.tar_bytes) + 1))
        object.__setattr__(self, "shard_starts", starts)

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def num_shards(self) -> int:
        """Number of shards, K."""
        return len(self.tar_bytes)

    @property
    def contents_sha256(self) -> str:
        """Identity of the cache's contents: SHA-256 of the seals of manifest and sidecars."""
        seals = [self.manifest_sha256, *map(self.sidecar_seal, range(self.num_shards))]
        return sha256_bytes("\n".join(seals).encode("ascii"))

    def key(self, index: int) -> str:
        """Return the key of the image at a position."""
        return self.keys[index].decode("ascii")

    def sidecar_seal(self, shard: int) -> str:
        """Return the seal of a shard's sidecar."""
        return self.sidecar_sha256[shard].decode("ascii")

    def layout(self, shard: int) -> ShardLayout:
        """Return what `ShardReader` needs of a shard; views, no copies."""
        images = slice(self.shard_starts[shard], self.shard_starts[shard + 1])
        return self._layout(images, int(self.tar_bytes[shard]))

    def range_fault(self) -> str | None:
        """Return which image has parts outside its tar; None if none has."""
        return self._layout(slice(None), 0).range_fault(self.tar_bytes[self.shards])

    def _layout(self, images: slice, tar_bytes: int) -> ShardLayout:
        shape = (self.num_feature_tokens, self.feature_map_width)
        return ShardLayout(
            tar_bytes=tar_bytes,
            feature_map_form=StoredForm(dtype=self.feature_map_dtype, shape=shape),
            token_dim=self.token_dim,
            json_offsets=self.json_offsets[images],
            data_offsets=self.data_offsets[images],
            num_regions=self.num_regions[images],
            image_checksums=self.image_checksums[images],
        )

    @classmethod
    def read(cls, cache_dir: Path) -> Self:
        """Read ``index.h5`` and compare its bytes with its seal."""
        path = index_path(cache_dir)
        with open_sealed_hdf5(path, remedy=_COMMAND) as h5:
            try:
                values: dict[str, Any] = {name: int(h5.attrs[name]) for name in _NUMBERS}
                columns: dict[str, Any] = {name: hdf5_array(h5, name) for name in _COLUMNS}
                values |= {name: h5.attrs[name].decode("ascii") for name in _TEXTS}
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise CacheCorruptError(f"{path} is no index: {error}. {_COMMAND}") from error
        if fault := _column_fault(columns) or _value_fault(columns):
            raise CacheCorruptError(f"{path} was not written by this library: {fault}. {_COMMAND}")
        return cls(**values, **columns)

    def write(self, h5: h5py.File) -> None:
        """Write the index into an open file, which `build_index` seals."""
        for name in _TEXTS:
            h5.attrs[name] = np.bytes_(getattr(self, name))
        for name in _NUMBERS:
            h5.attrs[name] = getattr(self, name)
        for name in _COLUMNS:
            h5.create_dataset(name, data=getattr(self, name), track_times=False)


_TEXTS, _NUMBERS = (
    tuple(field.name for field in fields(CacheIndex) if field.type is kind) for kind in (str, int)
)


def build_index(cache_dir: Path, *, names_of_shards: Collection[str] | None = None) -> CacheIndex:
    """Write ``quarantine.jsonl`` and then ``index.h5`` from the sidecars, both atomically.

    Args:
        cache_dir: The cache's folder.
        names_of_shards: File names of the tars and sidecars; by default those in the folder.

    Returns:
        The index, as it was written.
    """
    index, quarantine = collect_index(cache_dir, names_of_shards)
    write_bytes_atomic(quarantine_path(cache_dir), quarantine)
    schema_version = read_manifest(cache_dir).schema_version
    write_sealed_hdf5(index_path(cache_dir), index.write, schema_version=schema_version)
    return index


def collect_index(
    cache_dir: Path, names_of_shards: Collection[str] | None = None
) -> tuple[CacheIndex, bytes]:
    """Return the index and the ``quarantine.jsonl`` that `build_index` writes."""
    manifest = read_manifest(cache_dir)
    manifest_sha256 = manifest.sha256
    check_all_shards_present(cache_dir, manifest.plan.num_shards, names_of_shards)
    label_counts = np.zeros(len(manifest.vocabulary), np.int64)
    columns: dict[str, list[NDArray[Any]]] = {name: [] for name in _COLUMNS}
    columns["label_counts"].append(label_counts)
    columns["data_offsets"].append(np.zeros((0, len(manifest.members) - 1), np.int64))
    quarantine: list[bytes] = []
    num_clipped = num_dropped = 0
    for shard in range(manifest.plan.num_shards):
        sidecar, seal = read_sealed_sidecar(cache_dir, shard)
        check_sidecar(cache_dir, sidecar, manifest, manifest_sha256)
        for name, column in _columns_of(sidecar, seal).items():
            columns[name].append(column)
        for label, count in sidecar.label_counts:
            label_counts[label] += count
        num_clipped += sidecar.num_clipped_regions
        num_dropped += sidecar.num_dropped_regions
        quarantine += [
            canonical_json({"shard": shard, **asdict(image)}).encode("utf-8") + b"\n"
            for image in sidecar.quarantined
        ]
    form = manifest.feature_map_form
    index = CacheIndex(
        manifest_sha256=manifest_sha256,
        feature_map_dtype=form.dtype,
        num_quarantined=len(quarantine),
        num_clipped_regions=num_clipped,
        num_dropped_regions=num_dropped,
        num_feature_tokens=form.shape[0],
        feature_map_width=form.shape[1],
        token_dim=manifest.fingerprint.token_dim,
        **{name: np.concatenate(parts) for name, parts in columns.items()},
    )
    keys, counts = np.unique(index.keys, return_counts=True)
    if len(keys) != len(index):
        twice = keys[counts > 1][0].decode("ascii")
        raise CacheCorruptError(
            f"{cache_dir}: two images have the key {twice!r}; wanted unique keys. Check the"
            f" annotations, then remove the folder and make the cache again: {CACHE_COMMAND}"
        )
    return index, b"".join(quarantine)


def _columns_of(sidecar: ShardSidecar, seal: str) -> dict[str, NDArray[Any]]:
    return {
        "keys": np.array(sidecar.keys, dtype=np.bytes_),
        "image_ids": sidecar.image_ids,
        "sizes_hw": sidecar.sizes_hw.astype(np.int32),
        "num_regions": sidecar.num_regions.astype(np.int32),
        "shards": np.full(sidecar.num_images, sidecar.shard, np.int32),
        "json_offsets": sidecar.json_offsets,
        "data_offsets": sidecar.data_offsets,
        "image_checksums": sidecar.image_checksums,
        "tar_bytes": np.array([sidecar.tar_bytes], np.int64),
        "sidecar_sha256": np.array([seal], dtype=np.bytes_),
    }


def check_all_shards_present(
    cache_dir: Path, num_shards: int, names_of_shards: Collection[str] | None = None
) -> None:
    """Raise `CacheCorruptError` if a tar or a sidecar is missing; see `build_index`."""
    if names_of_shards is None:
        names_of_shards = CacheFiles(cache_dir).names_of_shards()
    names = frozenset(names_of_shards)
    missing = [
        shard
        for shard in range(num_shards)
        if not {shard_path(cache_dir, shard).name, sidecar_path(cache_dir, shard).name} <= names
    ]
    if missing:
        raise CacheCorruptError(
            f"{cache_dir} is not finished: {len(missing)} of its {num_shards} shards are missing,"
            f" the first one is {missing[0]}. Run the command that makes it again to finish it:"
            f" {CACHE_COMMAND}"
        )


def check_sidecar(
    cache_dir: Path, sidecar: ShardSidecar, manifest: Manifest, manifest_sha256: str
) -> None:
    """Raise `CacheCorruptError` if a shard does not belong to the cache's manifest.

    The manifest's seal is an argument, as computing it for every shard would be slow.
    """
    path = sidecar_path(cache_dir, sidecar.shard)
    if sidecar.manifest_sha256 != manifest_sha256:
        raise CacheCorruptError(
            f"{path} was written under another manifest.json than the one that is there now."
            f" Restore that one, or remove the folder and cache again: {CACHE_COMMAND}"
        )
    if sidecar.members != manifest.members:
        raise CacheCorruptError(
            f"{path} is of images with the members {', '.join(sidecar.members)}; by the manifest"
            f" they have {', '.join(manifest.members)}. Remove it and make the shard again:"
            f" {CACHE_COMMAND}"
        )
    num_planned = len(manifest.plan.images_of(sidecar.shard))
    num_found = sidecar.num_images + len(sidecar.quarantined)
    labels = [label for label, _ in sidecar.label_counts]
    if num_found != num_planned or any(not 0 <= x < len(manifest.vocabulary) for x in labels):
        raise CacheCorruptError(
            f"{path} accounts for {num_found} images and labels up to {max(labels, default=0)};"
            f" the manifest plans {num_planned} images and {len(manifest.vocabulary)} classes."
            f" Remove it and make the shard again: {CACHE_COMMAND}"
        )


_SEAL_LENGTH = 64
_KEY_LETTERS = np.zeros(256, np.bool_)
_KEY_LETTERS[list(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")] = True


def _column_fault(columns: Mapping[str, NDArray[Any]]) -> str | None:
    """Return which column has another dtype or shape than in `_COLUMNS`; None if none has."""
    lengths: dict[str, int] = {}
    for name, (dtype, sides) in _COLUMNS.items():
        column = columns[name]
        found = column.dtype.kind if dtype == "S" else f"{column.dtype.kind}{column.dtype.itemsize}"
        if sides == "NM":  # how many, the manifest says
            is_short = column.ndim != 2 or not len(ARRAY_MEMBERS) <= column.shape[1] < len(MEMBERS)
            shape = () if is_short else column.shape
        else:
            shape = column.shape[:1] + tuple(int(side) for side in sides[1:])
        if found != dtype or column.shape != shape or not column.dtype.isnative:
            return f"{name} is {column.dtype} {column.shape}"
        if lengths.setdefault(sides[0], len(column)) != len(column):
            return f"{name} has {len(column)} entries, others {lengths[sides[0]]}"
    return None


def _value_fault(columns: Mapping[str, NDArray[Any]]) -> str | None:
    """Return which column has an impossible value; None if none has. Call `_column_fault` first."""
    shards, num_shards = columns["shards"], len(columns["tar_bytes"])
    if len(shards) and not (shards.min() >= 0 and shards.max() < num_shards):
        return f"images are in the shards {shards.min()} to {shards.max()} of {num_shards}"
    if (np.diff(shards) < 0).any():
        return "shards are out of order"
    starts = columns["json_offsets"]
    if ((starts[1:] <= starts[:-1]) & (shards[1:] == shards[:-1])).any():
        return "images are out of order"
    for name, least in {"tar_bytes": 0, "label_counts": 0, "num_regions": 0, "sizes_hw": 1}.items():
        if columns[name].min(initial=least) < least:
            return f"{name} has {columns[name].min()}"
    for name, length in {"keys": MAX_KEY_LENGTH, "sidecar_sha256": _SEAL_LENGTH}.items():
        column = columns[name]
        size = column.dtype.itemsize
        letters = np.ascontiguousarray(column).view(np.uint8).reshape(len(column), size)
        # Shorter texts are padded with zeros; numpy strips them at the end only.
        used = np.arange(size) < np.char.str_len(column)[:, None]
        if size > length or not (_KEY_LETTERS[letters] | ~used).all() or not used.any(axis=1).all():
            return f"{name} holds something else than 1 to {length} of A-Z a-z 0-9 _ -"
    return None
