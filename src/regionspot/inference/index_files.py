"""The files of a region index: one part for each shard of the cache, and a card over all of them.

    <index>/
      parts/000000.npy   region embeddings of a shard: an array that `numpy.load` maps
      parts/000000.h5    their images, boxes and labels; written after the array
      index.json         the card: head, cache and checksums of all parts; written last

A part exists if its ``.h5`` does, and the index if its card does. All files but the arrays contain
their own SHA-256; that of the array is a checksum (64-bit XXH3) in the other two.

Shape letters: N images and R regions of a part, E text width.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final

import h5py
import msgspec
import numpy as np
import xxhash
from numpy.typing import NDArray

from regionspot.cache import (
    HEADER_BYTES,
    encode_array,
    hdf5_array,
    open_regular,
    open_sealed_hdf5,
    open_sealed_json,
    seal_json,
    write_sealed_hdf5,
)
from regionspot.core.errors import CacheCorruptError, CacheMismatchError, MissingFileError
from regionspot.core.files import is_below, write_bytes_atomic, write_text_atomic

INDEX_COMMAND: Final = "regionspot index <cache> --head <its head>"
"""The command that makes an index, finishes one, or makes damaged parts again."""

_REMEDY = f"Make the damaged parts again: {INDEX_COMMAND}"
_CARD_NAME = "index.json"
_Count = Annotated[int, msgspec.Meta(ge=0, lt=2**40)]
_DTYPE = np.dtype("<f2")


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexSource:
    """What region embeddings were computed from."""

    head_sha256: str
    """Identity of the head (`TrainedHead.sha256`)."""
    cache_sha256: str
    """Identity of the cache's contents (`CacheIndex.contents_sha256`)."""

    def check_same(self, wanted: "IndexSource", *, where: Path) -> None:
        """Raise `CacheMismatchError` unless the embeddings are those of the wanted head and cache.

        Args:
            wanted: The head and cache at hand.
            where: The index, for the message.
        """
        if self == wanted:
            return
        is_head = self.head_sha256 != wanted.head_sha256
        raise CacheMismatchError(
            f"{where} is the region index of another {'head' if is_head else 'cache'}"
            f"{'' if is_head else ', or of this one before it was changed'}. Remove the folder, or"
            f" give another one: {INDEX_COMMAND} --output <folder>"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexPart:
    """One part of an index."""

    num_images: _Count
    """Number of its images, N."""
    num_regions: _Count
    """Number of its regions, R."""
    embeddings_xxh3: str
    """Checksum of the file of its embeddings, 16 hex digits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexCard:
    """Describes a region index: everything that a search needs but the regions."""

    source: IndexSource
    """The head and the cache."""
    fingerprint: Mapping[str, Any]
    """Fingerprint of the frozen models of both."""
    templates: str
    """Template set of the head's training."""
    scale: float
    """The classifier's scale."""
    bias: float
    """The classifier's bias."""
    vocabulary: tuple[str, ...]
    """Class names of the cache; labels are indices into them."""
    text_dim: _Count
    """Width of the embeddings, E."""
    parts: tuple[IndexPart, ...]
    """The parts, one for each shard of the cache."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RegionTable:
    """Where the regions of a part are. Regions are in the order of the images."""

    keys: NDArray[np.bytes_]
    """Key of each image in the cache, ASCII, (N,)."""
    image_ids: NDArray[np.int64]
    """The data set's own id of each image, (N,)."""
    file_names: NDArray[np.bytes_]
    """File of each image, relative to the folder of the images, UTF-8, (N,); empty if unknown."""
    num_regions: NDArray[np.int32]
    """Regions of each image, (N,)."""
    boxes_xyxy: NDArray[np.float32]
    """Box of each region, (R, 4), pixels of the original image."""
    labels: NDArray[np.int32]
    """Class of each region, (R,); -1 for proposals."""

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """First row of each image, and R at the end, (N + 1,)."""
        return np.concatenate([[0], np.cumsum(self.num_regions, dtype=np.int64)])

    @cached_property
    def images(self) -> NDArray[np.int64]:
        """Image of each region, (R,), counted from 0 in the part."""
        return np.repeat(np.arange(len(self.keys)), self.num_regions)

    def fault(self) -> str | None:
        """Return what about its arrays is impossible; None if nothing is."""
        num_images, num_regions = len(self.keys), len(self.labels)
        shapes = {
            "keys": (self.keys, "S", (num_images,)),
            "image_ids": (self.image_ids, "i", (num_images,)),
            "file_names": (self.file_names, "S", (num_images,)),
            "num_regions": (self.num_regions, "i", (num_images,)),
            "boxes_xyxy": (self.boxes_xyxy, "f", (num_regions, 4)),
            "labels": (self.labels, "i", (num_regions,)),
        }
        for name, (array, kind, shape) in shapes.items():
            if array.dtype.kind != kind or array.shape != shape:
                return f"{name} is {array.dtype} {array.shape}"
        if self.num_regions.min(initial=0) < 0 or self.starts[-1] != num_regions:
            return f"images have {self.starts[-1]} regions of {num_regions}"
        for image, stored in enumerate(self.file_names.tolist()):
            try:
                file_name = self.file_name(image)
            except UnicodeDecodeError:
                return f"the file name {stored!r} is not UTF-8"
            if file_name is not None and not is_below(file_name):
                return f"the file name {file_name!r} is not a path below the images folder"
        return None

    def file_name(self, image: int) -> str | None:
        """Return the file of an image, or None if it is unknown."""
        return self.file_names[image].decode("utf-8", "surrogatepass") or None


def encode_file_name(name: str | None) -> bytes:
    """Return a file name as `RegionTable` stores it."""
    return (name or "").encode("utf-8", "surrogatepass")


def card_path(folder: Path) -> Path:
    """Return the path of an index's card."""
    return folder / _CARD_NAME


def has_index(folder: Path | str) -> bool:
    """Return whether a folder has a finished index."""
    return card_path(Path(folder)).is_file()


def embeddings_path(folder: Path, part: int) -> Path:
    """Return the path of the embeddings of a part."""
    return folder / "parts" / f"{part:06d}.npy"


def table_path(folder: Path, part: int) -> Path:
    """Return the path of the table of a part."""
    return folder / "parts" / f"{part:06d}.h5"


def write_card(folder: Path, card: IndexCard) -> None:
    """Write ``index.json`` atomically."""
    text, _ = seal_json(asdict(card))
    write_text_atomic(card_path(folder), text)


def read_card(folder: Path) -> IndexCard:
    """Read ``index.json``.

    Raises:
        MissingFileError: The folder has no finished index.
        CacheMismatchError: It is of another version.
        CacheCorruptError: It was changed after it was written.
    """
    path = card_path(folder)
    values, _ = open_sealed_json(path, remedy=f"Make it: {INDEX_COMMAND}")
    try:
        return msgspec.convert(values, IndexCard)
    except msgspec.ValidationError as error:
        raise CacheCorruptError(
            f"{path} is not the card of a region index: {error!s:.300}. {_REMEDY}"
        ) from error


def write_part(
    folder: Path,
    part: int,
    table: RegionTable,
    embeddings_RE: NDArray[np.float16],
    source: IndexSource,
) -> IndexPart:
    """Write a part: the embeddings, then the table, both atomically.

    Args:
        folder: The index.
        part: Number of the part.
        table: Its regions.
        embeddings_RE: Their embeddings, (R, E), of unit norm.
        source: The head and the cache.
    """
    # A table promises its array, so an old one goes first.
    table_path(folder, part).unlink(missing_ok=True)
    content = encode_array(embeddings_RE)
    write_bytes_atomic(embeddings_path(folder, part), content)
    checksum = xxhash.xxh3_64_hexdigest(content)

    def fill(h5: h5py.File) -> None:
        for name, value in {**asdict(source), "embeddings_xxh3": checksum}.items():
            h5.attrs[name] = np.bytes_(value)
        for name in RegionTable.__dataclass_fields__:
            h5.create_dataset(name, data=getattr(table, name), track_times=False)

    write_sealed_hdf5(table_path(folder, part), fill)
    return IndexPart(
        num_images=len(table.keys), num_regions=len(table.labels), embeddings_xxh3=checksum
    )


def read_table(folder: Path, part: int) -> tuple[RegionTable, IndexSource, str]:
    """Read the table of a part, its source, and the checksum of the embeddings.

    Raises:
        MissingFileError: The part does not exist.
        CacheCorruptError: The table was changed after it was written.
    """
    path = table_path(folder, part)
    with open_sealed_hdf5(path, remedy=_REMEDY) as h5:
        head, cache, checksum = (
            h5.attrs[name].decode("ascii")
            for name in ("head_sha256", "cache_sha256", "embeddings_xxh3")
        )
        table = RegionTable(**{name: hdf5_array(h5, name) for name in _COLUMNS})
    if fault := table.fault():
        raise CacheCorruptError(f"{path} was not written by this library: {fault}. {_REMEDY}")
    return table, IndexSource(head_sha256=head, cache_sha256=cache), checksum


_COLUMNS = tuple(RegionTable.__dataclass_fields__)


def map_embeddings(folder: Path, number: int, part: IndexPart, width: int) -> NDArray[np.float16]:
    """Map the embeddings of a part, (R, E), without reading them.

    The pages are private to this process, so that torch accepts them as writable.

    Args:
        folder: The index.
        number: Number of the part.
        part: What the card says about it.
        width: Width of the embeddings, E.

    Raises:
        CacheCorruptError: The file is missing or has another size than it was written with.
    """
    path = embeddings_path(folder, number)
    shape = (part.num_regions, width)
    wanted = HEADER_BYTES + part.num_regions * width * _DTYPE.itemsize
    found = path.stat().st_size if path.exists() else 0
    if found != wanted:
        raise CacheCorruptError(
            f"{path} has {found} bytes; wanted {wanted}: it is missing, or was cut short. {_REMEDY}"
        )
    with open_regular(path) as file:
        if part.num_regions == 0:  # nothing can be mapped
            return np.zeros(shape, _DTYPE)
        return np.memmap(file, _DTYPE, mode="c", offset=HEADER_BYTES, shape=shape)


def check_embeddings(folder: Path, number: int, checksum: str) -> None:
    """Raise `CacheCorruptError` unless the embeddings of a part are those that were written."""
    path = embeddings_path(folder, number)
    found = file_checksum(path)
    if found is None:
        raise CacheCorruptError(f"{path} is missing. {_REMEDY}")
    if found != checksum:
        raise CacheCorruptError(
            f"{path} is damaged: its bytes are not those that were written. {_REMEDY}"
        )


def file_checksum(path: Path) -> str | None:
    """Return the checksum of a file, 64-bit XXH3 in hex; None if there is no file."""
    digest = xxhash.xxh3_64()
    try:
        with open_regular(path) as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    except FileNotFoundError:
        return None
    return digest.hexdigest()


def find_damage(folder: Path) -> list[str]:
    """Compare every byte of a finished index with its checksums, and describe all damage.

    Raises:
        MissingFileError: The folder has no finished index.
    """
    try:
        card = read_card(folder)
    except CacheCorruptError as error:
        return [str(error)]
    damage = []
    for number, part in enumerate(card.parts):
        try:
            _, source, _ = read_table(folder, number)
            source.check_same(card.source, where=folder)
            check_embeddings(folder, number, part.embeddings_xxh3)
        except (MissingFileError, CacheCorruptError, CacheMismatchError) as error:
            damage.append(str(error))
    return damage
