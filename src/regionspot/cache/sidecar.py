"""The sidecar of a shard: what lies where in the tar, and how to tell that it still does.

It is written after the tar, so a shard without a sidecar does not exist.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from regionspot.cache.feature_codec import StoredForm
from regionspot.cache.layout import CACHE_COMMAND, MEMBERS, is_key, sidecar_path
from regionspot.cache.member_bytes import BLOCK_BYTES, HEADER_BYTES
from regionspot.cache.sealed import open_sealed_json, seal_json
from regionspot.core.errors import CacheCorruptError
from regionspot.core.files import write_text_atomic

_TOO_LARGE = 2**31
_Count = Annotated[int, msgspec.Meta(ge=0, lt=2**48)]
CHECKSUM = "crc32"
"""The checksum of a member's bytes: CRC-32 as in zlib, which finds every single flipped bit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantinedImage:
    """An image that could not be used, so that the cache does not hold it."""

    key: str
    """The key that it would have had."""
    image_id: int
    """The data set's own image id."""
    file_name: str
    """Its file, relative to the folder of the images."""
    reason: str
    """What was wrong with it, for a person."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShardLayout:
    """Where to find the samples of one mapped shard: what `ShardReader` needs and no more.

    N is the number of images of the shard.
    """

    tar_bytes: int
    """Size of the tar."""
    feature_map_form: StoredForm
    """How every feature map is stored."""
    token_dim: int
    """Width of every position token, S."""
    json_offsets: NDArray[np.int64]
    """Where the ``json`` member of each image starts in the tar, (N,)."""
    data_offsets: NDArray[np.int64]
    """Where the data of each image's arrays starts in the tar, (N, 5), multiples of 64."""
    num_regions: NDArray[np.int32] | NDArray[np.int64]
    """Regions of each image, (N,)."""
    image_checksums: NDArray[np.uint64]
    """XXH3-64 of all bytes of each image, (N,), headers and padding included."""

    def image_span(self, index: int) -> slice:
        """Return all bytes of an image in the tar: up to the next image, or to the tar's end."""
        is_last = index + 1 == len(self.json_offsets)
        stop = self.tar_bytes if is_last else int(self.json_offsets[index + 1]) - BLOCK_BYTES
        return slice(int(self.json_offsets[index]) - BLOCK_BYTES, stop)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShardSidecar:
    """Everything about a shard but the arrays themselves.

    N is its number of images, without quarantined ones.
    """

    shard: int
    """Number of the shard, counted from 0."""
    manifest_sha256: str
    """Seal of the manifest under which the shard was written."""
    tar_bytes: int
    """Size of the tar."""
    tar_sha256: str
    """SHA-256 of the whole tar."""
    feature_map_form: StoredForm
    """How every feature map is stored."""
    token_dim: int
    """Width of every position token, S."""
    keys: tuple[str, ...]
    """Key of each image, in the order of the tar."""
    image_ids: NDArray[np.int64]
    """The data set's own id of each image, (N,)."""
    sizes_hw: NDArray[np.int64]
    """Height and width of each original image in pixels, (N, 2)."""
    num_regions: NDArray[np.int64]
    """Regions of each image, (N,)."""
    offsets: NDArray[np.int64]
    """Where the bytes of each member start in the tar, (N, 6), columns as `layout.MEMBERS`."""
    lengths: NDArray[np.int64]
    """Number of bytes of each member, (N, 6)."""
    checksums: NDArray[np.int64]
    """CRC-32 over the bytes of each member, (N, 6)."""
    image_checksums: NDArray[np.uint64]
    """XXH3-64 over all bytes of each image, (N,), from its first tar header to that of the next
    image; those of the last image reach to the end of the tar."""
    label_counts: tuple[tuple[int, int], ...]
    """Pairs (label, number of regions) of the labels that occur, by label; without -1."""
    num_clipped_regions: int
    """Regions whose box was clipped when their image was decoded."""
    num_dropped_regions: int
    """Regions that were dropped then."""
    quarantined: tuple[QuarantinedImage, ...]
    """Images of the plan that are not in the tar."""

    @property
    def num_images(self) -> int:
        """Number of images in the tar, N."""
        return len(self.keys)

    @property
    def layout(self) -> ShardLayout:
        """What `ShardReader` needs."""
        return ShardLayout(
            tar_bytes=self.tar_bytes,
            feature_map_form=self.feature_map_form,
            token_dim=self.token_dim,
            json_offsets=self.offsets[:, 0],
            data_offsets=self.offsets[:, 1:] + HEADER_BYTES,
            num_regions=self.num_regions,
            image_checksums=self.image_checksums,
        )


def write_sidecar(cache_dir: Path, sidecar: ShardSidecar) -> None:
    """Write the sidecar of a shard atomically; equal sidecars give equal bytes."""
    text, _ = seal_json(
        {
            "shard": sidecar.shard,
            "manifest_sha256": sidecar.manifest_sha256,
            "tar_bytes": sidecar.tar_bytes,
            "tar_sha256": sidecar.tar_sha256,
            "num_images": sidecar.num_images,
            "num_regions": int(sidecar.num_regions.sum()),
            "feature_map_dtype": sidecar.feature_map_form.dtype,
            "feature_map_shape": sidecar.feature_map_form.shape,
            "token_dim": sidecar.token_dim,
            "checksum": CHECKSUM,
            "members": MEMBERS,
            "keys": sidecar.keys,
            "image_ids": sidecar.image_ids.tolist(),
            "sizes_hw": sidecar.sizes_hw.tolist(),
            "regions": sidecar.num_regions.tolist(),
            "offsets": sidecar.offsets.tolist(),
            "lengths": sidecar.lengths.tolist(),
            "checksums": sidecar.checksums.tolist(),
            # In hex, as 64 bits are more than JSON's numbers hold in some languages.
            "image_checksums": [f"{number:016x}" for number in sidecar.image_checksums.tolist()],
            "label_counts": sidecar.label_counts,
            "num_clipped_regions": sidecar.num_clipped_regions,
            "num_dropped_regions": sidecar.num_dropped_regions,
            "quarantined": [asdict(image) for image in sidecar.quarantined],
        }
    )
    write_text_atomic(sidecar_path(cache_dir, sidecar.shard), text)


def read_sidecar(cache_dir: Path, shard_index: int) -> ShardSidecar:
    """Read the sidecar of a shard.

    Raises:
        MissingFileError: The shard has no sidecar, so it was never finished.
        CacheMismatchError: The sidecar is of another schema version.
        CacheCorruptError: The sidecar was changed after it was written.
    """
    return read_sealed_sidecar(cache_dir, shard_index)[0]


def read_sealed_sidecar(cache_dir: Path, shard_index: int) -> tuple[ShardSidecar, str]:
    """Read the sidecar of a shard together with its seal, with the errors of `read_sidecar`."""
    path = sidecar_path(cache_dir, shard_index)
    values, seal = open_sealed_json(
        path, remedy=f"Remove it and make the shard again: {CACHE_COMMAND}"
    )
    try:
        sidecar = _from_json(values)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CacheCorruptError(
            f"{path} lacks or garbles a part of a sidecar: {error!s:.300}. Remove it and make the"
            f" shard again: {CACHE_COMMAND}"
        ) from error
    if sidecar.shard != shard_index:
        raise CacheCorruptError(
            f"{path} is the sidecar of shard {sidecar.shard}: files were renamed. Remove the cache"
            f" and make it again: {CACHE_COMMAND}"
        )
    return sidecar, seal


class _Counts(msgspec.Struct, kw_only=True):
    """The types of what is stored beside arrays."""

    shard: int
    manifest_sha256: str
    tar_bytes: Annotated[int, msgspec.Meta(ge=0)]
    tar_sha256: str
    feature_map_dtype: str
    feature_map_shape: tuple[int, int]
    token_dim: int
    keys: tuple[str, ...]
    label_counts: tuple[tuple[int, _Count], ...]
    num_clipped_regions: _Count
    num_dropped_regions: _Count
    quarantined: tuple[QuarantinedImage, ...]


def _from_json(values: dict[str, Any]) -> ShardSidecar:
    if tuple(values["members"]) != MEMBERS or values["checksum"] != CHECKSUM:
        raise ValueError(f"members {values['members']} with {values['checksum']} checksums")
    stored = msgspec.convert(values, _Counts)
    num_images = len(stored.keys)
    if not all(map(is_key, stored.keys)):
        raise ValueError("keys of other than 1 to 80 of A-Z a-z 0-9 _ -")
    sidecar = ShardSidecar(
        shard=stored.shard,
        manifest_sha256=stored.manifest_sha256,
        tar_bytes=stored.tar_bytes,
        tar_sha256=stored.tar_sha256,
        feature_map_form=StoredForm(dtype=stored.feature_map_dtype, shape=stored.feature_map_shape),
        token_dim=stored.token_dim,
        keys=stored.keys,
        image_ids=_integers(values["image_ids"], (num_images,)),
        sizes_hw=_integers(values["sizes_hw"], (num_images, 2)),
        num_regions=_integers(values["regions"], (num_images,)),
        offsets=_integers(values["offsets"], (num_images, len(MEMBERS))),
        lengths=_integers(values["lengths"], (num_images, len(MEMBERS))),
        checksums=_integers(values["checksums"], (num_images, len(MEMBERS))),
        image_checksums=np.array(
            [int(digits, 16) for digits in values["image_checksums"]], np.uint64
        ).reshape(num_images),
        label_counts=stored.label_counts,
        num_clipped_regions=stored.num_clipped_regions,
        num_dropped_regions=stored.num_dropped_regions,
        quarantined=stored.quarantined,
    )
    for name in ("sizes_hw", "num_regions", "lengths"):
        numbers = getattr(sidecar, name)
        if numbers.min(initial=0) < 0 or numbers.max(initial=0) >= _TOO_LARGE:
            raise ValueError(f"{name} from {numbers.min()} to {numbers.max()}")
    return sidecar


def _integers(values: Sequence[Any], shape: tuple[int, ...]) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64).reshape(shape)
