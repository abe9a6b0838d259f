"""The index: where every image lies, in arrays that load in a second for millions of images.

It is derived from the sidecars, together with the list of quarantined images, and can be rebuilt at
any time.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from regionspot.cache.feature_codec import StoredForm
from regionspot.cache.index_checks import COLUMNS, column_fault, value_fault
from regionspot.cache.layout import (
    CACHE_COMMAND,
    index_path,
)
from regionspot.cache.sealed import hdf5_array, open_sealed_hdf5
from regionspot.cache.sidecar import ShardLayout
from regionspot.core.errors import CacheCorruptError
from regionspot.core.hashing import sha256_bytes

_COMMAND = f"Rebuild it: {CACHE_COMMAND}"
_NUMBERS = (
    "num_quarantined",
    "num_clipped_regions",
    "num_dropped_regions",
    "num_feature_tokens",
    "feature_map_width",
    "token_dim",
)
_TEXTS = ("manifest_sha256", "feature_map_dtype")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CacheIndex:
    """Where every image of a cache lies. N images without quarantined ones, C classes, K shards.

    Images keep the order of the plan: by shard, and in a shard as in its tar.
    """

    manifest_sha256: str
    """Seal of the manifest that the cache was written under."""
    feature_map_dtype: str
    """NumPy's name of the type of stored feature maps."""
    num_quarantined: int
    """Images of the plan that the cache does not hold."""
    num_clipped_regions: int
    """Regions whose box was clipped when their image was decoded."""
    num_dropped_regions: int
    """Regions that were dropped then."""
    num_feature_tokens: int
    """Tokens of every feature map, T."""
    feature_map_width: int
    """Numbers in a row of every stored feature map: D, or W for int8."""
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
    """Shard of each image, (N,), never decreasing."""
    json_offsets: NDArray[np.int64]
    """Where the ``json`` member of each image starts in its tar, (N,)."""
    data_offsets: NDArray[np.int64]
    """Where the data of the arrays of each image starts, (N, 5), columns as `ARRAY_MEMBERS`."""
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
        """Identity of all that the cache holds: SHA-256 of the seals of manifest and sidecars."""
        seals = [self.manifest_sha256, *(seal.decode("ascii") for seal in self.sidecar_sha256)]
        return sha256_bytes("\n".join(seals).encode("ascii"))

    def key(self, index: int) -> str:
        """Return the key of the image at a position."""
        return self.keys[index].decode("ascii")

    def layout(self, shard_index: int) -> ShardLayout:
        """Return what `ShardReader` needs of a shard; views, no copies."""
        images = slice(self.shard_starts[shard_index], self.shard_starts[shard_index + 1])
        return ShardLayout(
            tar_bytes=int(self.tar_bytes[shard_index]),
            feature_map_form=StoredForm(
                dtype=self.feature_map_dtype,
                shape=(self.num_feature_tokens, self.feature_map_width),
            ),
            token_dim=self.token_dim,
            json_offsets=self.json_offsets[images],
            data_offsets=self.data_offsets[images],
            num_regions=self.num_regions[images],
            image_checksums=self.image_checksums[images],
        )

    @classmethod
    def read(cls, cache_dir: Path) -> Self:
        """Read ``index.h5`` after comparing its bytes with its seal.

        Raises:
            MissingFileError: The cache has no index.
            CacheMismatchError: The index is of another schema version.
            CacheCorruptError: The index was changed after it was written, or lacks a part.
        """
        path = index_path(cache_dir)
        with open_sealed_hdf5(path, remedy=_COMMAND) as h5:
            try:
                values: dict[str, Any] = {name: int(h5.attrs[name]) for name in _NUMBERS}
                columns: dict[str, Any] = {name: hdf5_array(h5, name) for name in COLUMNS}
                values |= {name: h5.attrs[name].decode("ascii") for name in _TEXTS}
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise CacheCorruptError(f"{path} is no index: {error}. {_COMMAND}") from error
        if fault := column_fault(columns) or value_fault(columns):
            raise CacheCorruptError(f"{path} was not written by this library: {fault}. {_COMMAND}")
        return cls(**values, **columns)

    def write(self, h5: h5py.File) -> None:
        """Write the index into an open file; `build_index` makes it whole and seals it."""
        for name in _TEXTS:
            h5.attrs[name] = np.bytes_(getattr(self, name))
        for name in _NUMBERS:
            h5.attrs[name] = getattr(self, name)
        for name in COLUMNS:
            h5.create_dataset(name, data=getattr(self, name), track_times=False)
