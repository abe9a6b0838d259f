"""Files that carry their own SHA-256, so that a flipped bit is found when they are opened.

Sealed JSON is plain JSON whose last key, ``sha256``, holds the hash of every byte before that key's
comma. Sealed HDF5 is plain HDF5 after a user block of 512 bytes that holds the hash of every byte
after it. The bytes of both depend only on their contents, not on times, order of writing or host.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from regionspot.cache.cache_files import open_regular
from regionspot.cache.layout import CACHE_COMMAND, SCHEMA_VERSION, SCHEMA_VERSIONS
from regionspot.core.errors import (
    CacheCorruptError,
    CacheMismatchError,
    MissingFileError,
    RegionSpotError,
)
from regionspot.core.files import open_atomic
from regionspot.core.json_text import load_json
from regionspot.core.sealing import SEAL_KEY, json_seal, seal_json_text

USER_BLOCK_BYTES: Final = 512
"""Length of the block before the HDF5 part of a sealed HDF5 file."""

_PIECE_BYTES = 1 << 20
# What h5py raises if a part of a file is missing or of another kind.
_HDF5_ERRORS = (LookupError, TypeError, ValueError, AttributeError, OSError, RuntimeError)


def seal_json(value: Mapping[str, Any], *, indent: int | None = None) -> tuple[str, str]:
    """Format a JSON object with the schema version as first and its SHA-256 as last key.

    Args:
        value: The object; its keys keep their order. Its ``schema_version``, if it has one, is the
            version.
        indent: Spaces per level; None for the most compact form.

    Returns:
        The text, and its seal: the hash in the last key.
    """
    separators = (",", ":") if indent is None else (",", ": ")
    versioned = {"schema_version": SCHEMA_VERSION, **value}
    text = json.dumps(versioned, indent=indent, separators=separators, ensure_ascii=False)
    return seal_json_text(text)


def open_sealed_json(path: Path, *, remedy: str) -> tuple[dict[str, Any], str]:
    """Read a sealed JSON file.

    Args:
        path: The file.
        remedy: What to do if the file is missing or damaged, as a sentence for the user.

    Returns:
        The object with its schema version and without its seal, and the seal.

    Raises:
        MissingFileError: There is no such file.
        CacheMismatchError: The file is of an unknown schema version.
        CacheCorruptError: The file was changed after it was sealed.
    """
    with _open(path, remedy) as file:
        data = file.read()
    try:
        value = load_json(data)
    except ValueError as error:
        raise CacheCorruptError(f"{path} is damaged: it is not JSON ({error}). {remedy}") from error
    if not isinstance(value, dict):
        raise CacheCorruptError(f"{path} is damaged: it holds no JSON object. {remedy}")
    check_schema_version(value.get("schema_version"), path)
    seal = json_seal(data)
    if seal is None:
        raise CacheCorruptError(
            f"{path} is damaged or was edited: its contents do not have the sha256 in its last"
            f" line. {remedy}"
        )
    del value[SEAL_KEY]
    return value, seal


def _open(path: Path, remedy: str) -> BinaryIO:
    try:
        return open_regular(path)
    except FileNotFoundError:
        raise MissingFileError(f"{path} does not exist. {remedy}") from None


def write_sealed_hdf5(
    path: Path, fill: Callable[[h5py.File], None], *, schema_version: int = SCHEMA_VERSION
) -> None:
    """Write a sealed HDF5 file atomically.

    Args:
        path: The file; an existing one is replaced.
        fill: Called once with the empty, open file to write its contents.
        schema_version: Version of the cache that the file belongs to.
    """
    with open_atomic(path) as file:
        with h5py.File(file, "w", userblock_size=USER_BLOCK_BYTES) as h5:
            h5.attrs["schema_version"] = schema_version
            fill(h5)
        file.seek(USER_BLOCK_BYTES)
        block = _user_block(file)
        file.seek(0)
        file.write(block)


@contextmanager
def open_sealed_hdf5(path: Path, *, remedy: str) -> Iterator[h5py.File]:
    """Compare a sealed HDF5 file with its seal and open it; see `open_sealed_json`."""
    with _open(path, remedy) as file:
        if file.read(USER_BLOCK_BYTES) != _user_block(file):
            raise CacheCorruptError(
                f"{path} is damaged or was edited: its contents do not have the sha256 in its first"
                f" line. {remedy}"
            )
        try:
            with h5py.File(file, "r") as h5:  # the file that was hashed, not what the path is now
                version = h5.attrs["schema_version"]
                check_schema_version(int(version) if np.ndim(version) == 0 else -1, path)
                yield h5
        except RegionSpotError:
            raise
        except _HDF5_ERRORS as error:
            raise CacheCorruptError(
                f"{path} was sealed, but is not what this library writes: {error!s:.200}. Do not"
                f" trust where it came from. {remedy}"
            ) from error


def hdf5_array(group: h5py.Group, name: str) -> NDArray[Any]:
    """Return a dataset of a sealed HDF5 file, if it is stored the way this library stores it.

    HDF5 data can be in other files, claim more bytes than the file has, or need a filter library
    that HDF5 looks for on this machine. Such data is refused.
    """
    dataset = _member(group, name)
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "iufS":
        raise ValueError(f"{name} holds no numbers")
    form = dataset.id.get_create_plist()
    is_whole = form.get_layout() in {h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT}
    if not is_whole or form.get_external_count() or form.get_nfilters():
        raise ValueError(f"{name} is stored in pieces, packed, or in another file")
    num_bytes = math.prod(dataset.shape) * dataset.dtype.itemsize
    if dataset.id.get_storage_size() != num_bytes:
        raise ValueError(
            f"{name} of shape {dataset.shape} has {dataset.id.get_storage_size()} bytes"
        )
    return np.asarray(dataset[()])


def hdf5_groups(group: h5py.Group) -> dict[str, h5py.Group]:
    """Return the groups in a group of a sealed HDF5 file, by name."""
    members = {name: _member(group, name) for name in group}
    if not all(isinstance(member, h5py.Group) for member in members.values()):
        raise ValueError(f"{group.name} holds something else than groups")
    return members


def _member(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset:
    is_link = not isinstance(group.get(name, getlink=True), h5py.HardLink)
    if is_link:
        raise ValueError(f"{name} is a link to something else")
    return group[name]


def check_schema_version(found: object, path: Path) -> None:
    """Raise `CacheMismatchError` if a file has an unknown version of the format."""
    if found not in SCHEMA_VERSIONS or isinstance(found, bool | float):
        raise CacheMismatchError(
            f"{path} is of cache schema version {found!r}; this RegionSpot reads the versions"
            f" {', '.join(map(str, SCHEMA_VERSIONS))}. Use the RegionSpot that wrote it, or cache"
            f" again into another folder: {CACHE_COMMAND}"
        )


def _user_block(file: BinaryIO) -> bytes:
    """Hash the rest of a file, and return the block that belongs before it."""
    digest = hashlib.sha256()
    while piece := file.read(_PIECE_BYTES):
        digest.update(piece)
    text = f"regionspot sealed hdf5: sha256 of all bytes from {USER_BLOCK_BYTES} on\n"
    return f"{text}{digest.hexdigest()}\n".encode("ascii").ljust(USER_BLOCK_BYTES, b"\0")
