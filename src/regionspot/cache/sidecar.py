"""The sidecar of a shard: where its members are in the tar, and their checksums.

It is written after the tar: a shard without a sidecar is unfinished. `read_quarantine` reads the
list of the images that are in no shard.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from regionspot.cache.cache_files import open_regular
from regionspot.cache.feature_codec import StoredForm
from regionspot.cache.layout import (
    CACHE_COMMAND,
    MASKS,
    MEMBERS,
    is_key,
    members_of,
    quarantine_path,
    sidecar_path,
)
from regionspot.cache.member_bytes import BLOCK_BYTES, HEADER_BYTES
from regionspot.cache.sample import data_bytes
from regionspot.cache.sealed import open_sealed_json, seal_json
from regionspot.core.errors import CacheCorruptError
from regionspot.core.files import write_text_atomic
from regionspot.core.json_text import load_json
from regionspot.core.shown import shown

_TOO_LARGE = 2**31
_MAX_WIDTH = 1 << 24
_MAX_REGIONS = 1 << 31
_Count = Annotated[int, msgspec.Meta(ge=0, lt=2**48)]
CHECKSUM: Final = "crc32"
"""Checksum of a member's bytes: CRC-32 as in zlib, which detects every single flipped bit."""

_NUMBERS: Final = (
    ("image_ids", "image_ids", ""),
    ("sizes_hw", "sizes_hw", "2"),
    ("regions", "num_regions", ""),
    ("offsets", "offsets", "M"),
    ("lengths", "lengths", "M"),
    ("checksums", "checksums", "M"),
)
"""Name in the file, name in `ShardSidecar` and sides after N of its arrays of integers; M is the
number of members."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantinedImage:
    """An image that could not be used and is not in the cache."""

    key: str
    """The key that it would have had."""
    image_id: int
    """The data set's own image id."""
    file_name: str
    """Its file, relative to the folder of the images."""
    reason: str
    """Why it could not be used."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShardLayout:
    """Where the N images of a shard are: the part of its sidecar that `ShardReader` needs."""

    tar_bytes: int
    """Size of the tar."""
    feature_map_form: StoredForm
    """How every feature map is stored."""
    token_dim: int
    """Width of every position token, S."""
    json_offsets: NDArray[np.int64]
    """Where the ``json`` member of each image starts in the tar, (N,)."""
    data_offsets: NDArray[np.int64]
    """Where the data of each image's other members starts in the tar, (N, M - 1), multiples of 64:
    columns as `MEMBERS[1:]`, of which the last ones may be absent. The data of an array starts
    after its header."""
    num_regions: NDArray[np.signedinteger]
    """Regions of each image, (N,)."""
    image_checksums: NDArray[np.uint64]
    """XXH3-64 over the bytes of each image, (N,), from its first tar header to that of the next
    image or, for the last image, to the end of the tar."""

    def json_span(self, index: int) -> slice:
        """Return the bytes of an image's ``json`` member in the tar, with its padding."""
        stop = int(self.data_offsets[index, 0]) - HEADER_BYTES - BLOCK_BYTES
        return slice(int(self.json_offsets[index]), stop)

    def image_span(self, index: int) -> slice:
        """Return the bytes of an image in the tar, up to the next image or the end of the tar."""
        is_last = index + 1 == len(self.json_offsets)
        stop = self.tar_bytes if is_last else int(self.json_offsets[index + 1]) - BLOCK_BYTES
        return slice(int(self.json_offsets[index]) - BLOCK_BYTES, stop)

    def range_fault(self, tar_bytes: int | NDArray[np.int64]) -> str | None:
        """Return which image has parts outside its tar; None if none has.

        No sum is formed that could exceed 64 bits.

        Args:
            tar_bytes: Size of the tar, or of the tar of each image, (N,).
        """
        if not len(self.json_offsets):
            return None
        if self.num_regions.min() < 0 or self.num_regions.max() > _MAX_REGIONS:
            return f"images have {self.num_regions.min()} to {self.num_regions.max()} regions"
        widths = (*self.feature_map_form.shape, self.token_dim)
        if not all(0 < width <= _MAX_WIDTH for width in widths):
            return f"arrays have the widths {widths}"
        room = np.broadcast_to(np.asarray(tar_bytes, np.int64), self.json_offsets.shape)
        data, json = self.data_offsets, self.json_offsets
        needed = data_bytes(self.feature_map_form, self.token_dim, self.num_regions)
        needed = needed[:, : data.shape[1]]
        outside = ((data < HEADER_BYTES) | (data > room[:, None] - needed)).any(axis=1)
        outside |= (json < BLOCK_BYTES) | (json > room - BLOCK_BYTES)
        # Between the two are the json member, and the headers of the feature map.
        outside |= json > np.maximum(data[:, 0], 0) - HEADER_BYTES - 2 * BLOCK_BYTES
        if outside.any():
            return f"image {int(np.flatnonzero(outside)[0])} points outside its tar"
        return None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShardSidecar(ShardLayout):
    """Everything about a shard but its arrays. N images, without quarantined ones."""

    schema_version: int
    """Version of the cache."""
    shard: int
    """Number of the shard, counted from 0."""
    manifest_sha256: str
    """Seal of the manifest when the shard was written."""
    tar_sha256: str
    """SHA-256 of the whole tar."""
    keys: tuple[str, ...]
    """Key of each image, in the order of the tar."""
    image_ids: NDArray[np.int64]
    """The data set's own id of each image, (N,)."""
    sizes_hw: NDArray[np.int64]
    """Height and width of each original image in pixels, (N, 2)."""
    offsets: NDArray[np.int64]
    """Where the bytes of each member start in the tar, (N, M), columns as `members`."""
    lengths: NDArray[np.int64]
    """Number of bytes of each member, (N, M)."""
    checksums: NDArray[np.int64]
    """CRC-32 over the bytes of each member, (N, M)."""
    label_counts: tuple[tuple[int, int], ...]
    """Pairs (label, number of regions) of the labels that occur, by label; without -1."""
    num_clipped_regions: int
    """Number of regions whose box was clipped when their image was decoded."""
    num_dropped_regions: int
    """Number of regions that were dropped then."""
    quarantined: tuple[QuarantinedImage, ...]
    """Planned images that are not in the tar."""
    json_offsets: NDArray[np.int64] = field(init=False)
    data_offsets: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "json_offsets", self.offsets[:, 0])
        headers = [0 if member == MASKS else HEADER_BYTES for member in self.members[1:]]
        object.__setattr__(self, "data_offsets", self.offsets[:, 1:] + headers)

    @property
    def members(self) -> tuple[str, ...]:
        """The M members of every image, in the order of the tar; the first ones of `MEMBERS`."""
        return MEMBERS[: self.offsets.shape[1]]

    @property
    def num_images(self) -> int:
        """Number of images in the tar, N."""
        return len(self.keys)


def write_sidecar(cache_dir: Path, sidecar: ShardSidecar) -> None:
    """Write the sidecar of a shard atomically; equal sidecars give equal bytes."""
    text, _ = seal_json(
        {
            "schema_version": sidecar.schema_version,
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
            "members": sidecar.members,
            "keys": sidecar.keys,
            **{name: getattr(sidecar, part).tolist() for name, part, _ in _NUMBERS},
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
        MissingFileError: The shard has no sidecar: it is unfinished.
        CacheMismatchError: The sidecar is of another schema version.
        CacheCorruptError: The sidecar was changed after it was written.
    """
    return read_sealed_sidecar(cache_dir, shard_index)[0]


def read_sealed_sidecar(cache_dir: Path, shard_index: int) -> tuple[ShardSidecar, str]:
    """Read the sidecar of a shard and its seal; raises what `read_sidecar` raises."""
    path = sidecar_path(cache_dir, shard_index)
    remedy = f"Remove it and make the shard again: {CACHE_COMMAND}"
    values, seal = open_sealed_json(path, remedy=remedy)
    try:
        sidecar = _from_json(values)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CacheCorruptError(
            f"{path} is incomplete or invalid: {error!s:.300}. {remedy}"
        ) from error
    if sidecar.shard != shard_index:
        raise CacheCorruptError(
            f"{path} is the sidecar of shard {sidecar.shard}: files were renamed. Remove the cache"
            f" and make it again: {CACHE_COMMAND}"
        )
    return sidecar, seal


class _Stored(msgspec.Struct, kw_only=True):
    """The types of the stored values other than arrays."""

    schema_version: int
    shard: int
    manifest_sha256: str
    tar_bytes: Annotated[int, msgspec.Meta(ge=0)]
    tar_sha256: str
    token_dim: int
    keys: tuple[str, ...]
    label_counts: tuple[tuple[int, _Count], ...]
    num_clipped_regions: _Count
    num_dropped_regions: _Count
    quarantined: tuple[QuarantinedImage, ...]


def _from_json(values: dict[str, Any]) -> ShardSidecar:
    members, checksum = tuple(values["members"]), values["checksum"]
    stored = msgspec.convert(values, _Stored)
    known = [members_of(stored.schema_version, masks=masks) for masks in (False, True)]
    if members not in known or checksum != CHECKSUM:
        raise ValueError(f"members {members} with {checksum} checksums")
    form = {"dtype": values["feature_map_dtype"], "shape": values["feature_map_shape"]}
    num_images = len(stored.keys)
    if not all(map(is_key, stored.keys)):
        raise ValueError("keys of other than 1 to 80 of A-Z a-z 0-9 _ -")
    checksums = [int(digits, 16) for digits in values["image_checksums"]]
    parts = msgspec.structs.asdict(stored)
    for name, attribute, sides in _NUMBERS:
        shape = [num_images, *({"2": 2, "M": len(members)}[side] for side in sides)]
        parts[attribute] = np.array(values[name], np.int64).reshape(shape)
    sidecar = ShardSidecar(
        feature_map_form=msgspec.convert(form, StoredForm),
        image_checksums=np.array(checksums, np.uint64).reshape(num_images),
        **parts,
    )
    for name in ("sizes_hw", "num_regions", "lengths"):
        numbers = getattr(sidecar, name)
        if numbers.min(initial=0) < 0 or numbers.max(initial=0) >= _TOO_LARGE:
            raise ValueError(f"{name} from {numbers.min()} to {numbers.max()}")
    return sidecar


def read_quarantine(cache_dir: Path) -> tuple[QuarantinedImage, ...]:
    """Read ``quarantine.jsonl``, the images that could not be used, in the order of the plan.

    The list is not sealed: `verify_cache` compares it with the sidecars. Without a file it is
    empty.
    """
    path = quarantine_path(cache_dir)
    try:
        with open_regular(path) as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        return ()
    return tuple(_image(line, f"{path}, line {number}") for number, line in enumerate(lines, 1))


def _image(line: bytes, place: str) -> QuarantinedImage:
    remedy = f"Write the list again, with the index: {CACHE_COMMAND}"
    try:
        row = load_json(line)
    except ValueError as error:
        raise CacheCorruptError(f"{place} is not JSON ({error}). {remedy}") from error
    try:
        return msgspec.convert(row, QuarantinedImage)
    except msgspec.ValidationError as error:
        raise CacheCorruptError(
            f"{place} is {shown(row)}; wanted an image with a reason. {remedy}"
        ) from error
