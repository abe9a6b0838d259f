"""Files that carry their own SHA-256, so that one flipped bit is seen when they are opened.

Sealed JSON is plain JSON whose last key, ``sha256``, holds the hash of every byte before that key's
comma. Sealed HDF5 is plain HDF5 behind a user block of 512 bytes that holds the hash of every byte
after it. Both have bytes that depend on what was stored only: no times, no order of writing, no
host.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from regionspot.cache.layout import CACHE_COMMAND, SCHEMA_VERSION
from regionspot.cache.regular_files import open_regular
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
# What h5py raises of a file that has no such parts, or parts of other kinds.
_HDF5_ERRORS = (LookupError, TypeError, ValueError, AttributeError, OSError, RuntimeError)


def seal_json(value: Mapping[str, Any], *, indent: int | None = None) -> tuple[str, str]:
    """Write a JSON object with its schema version in front and its own SHA-256 as the last key.

    Args:
        value: The object; its keys keep their order.
        indent: Spaces a level for a file that people read; None for the most compact form.

    Returns:
        The text of the file, and its seal: the hash in that last key.
    """
    separators = (",", ":") if indent is None else (",", ": ")
    versioned = {"schema_version": SCHEMA_VERSION, **value}
    text = json.dumps(versioned, indent=indent, separators=separators, ensure_ascii=False)
    return seal_json_text(text)


def open_sealed_json(path: Path, *, remedy: str) -> tuple[dict[str, Any], str]:
    """Read a sealed JSON file.

    Args:
        path: The file.
        remedy: What to do when the file is not whole, as a sentence for the user.

    Returns:
        The object without its seal, and the seal.

    Raises:
        MissingFileError: There is no such file.
        CacheMismatchError: The file is of another schema version.
        CacheCorruptError: The bytes are not the ones that were sealed.
    """
    try:
        with open_regular(path) as file:
            data = file.read()
    except FileNotFoundError:
        raise MissingFileError(f"{path} does not exist. {remedy}") from None
    try:
        value = load_json(data)
    except ValueError as error:
        raise CacheCorruptError(f"{path} is damaged: it is not JSON ({error}). {remedy}") from error
    if not isinstance(value, dict):
        raise CacheCorruptError(f"{path} is damaged: it holds no JSON object. {remedy}")
    check_schema_version(value.pop("schema_version", None), path)
    seal = json_seal(data)
    if seal is None:
        raise CacheCorruptError(
            f"{path} is damaged or was edited: its contents do not have the sha256 in its last"
            f" line. {remedy}"
        )
    del value[SEAL_KEY]
    return value, seal


def write_sealed_hdf5(path: Path, fill: Callable[[h5py.File], None]) -> None:
    """Write a sealed HDF5 file atomically.

    Args:
        path: The file; a former one is replaced.
        fill: Called once with the empty, open file, to write into it.
    """
    with open_atomic(path) as file:
        with h5py.File(file, "w", userblock_size=USER_BLOCK_BYTES) as h5:
            h5.attrs["schema_version"] = SCHEMA_VERSION
            fill(h5)
        file.seek(USER_BLOCK_BYTES)
        digest = hashlib.sha256()
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
        file.seek(0)
        file.write(_user_block(digest.hexdigest()))


@contextmanager
def open_sealed_hdf5(path: Path, *, remedy: str) -> Iterator[h5py.File]:
    """Open a sealed HDF5 file for reading, after all its bytes were compared with its seal.

    Args:
        path: The file.
        remedy: What to do when the file is not whole, as a sentence for the user.

    Raises:
        MissingFileError: There is no such file.
        CacheMismatchError: The file is of another schema version.
        CacheCorruptError: The bytes are not the ones that were sealed.
    """
    try:
        file = open_regular(path)
    except FileNotFoundError:
        raise MissingFileError(f"{path} does not exist. {remedy}") from None
    with file:
        block = file.read(USER_BLOCK_BYTES)
        digest = hashlib.sha256()
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
        if block != _user_block(digest.hexdigest()):
            raise CacheCorruptError(
                f"{path} is damaged or was edited: its contents do not have the sha256 in its first"
                f" line. {remedy}"
            )
        try:
            with h5py.File(file, "r") as h5:  # the very file that was hashed
                check_schema_version(_version(h5), path)
                yield h5
        except RegionSpotError:
            raise
        except _HDF5_ERRORS as error:
            raise CacheCorruptError(
                f"{path} was sealed, but is not what this library writes: {error!s:.200}. Do not"
                f" trust where it came from. {remedy}"
            ) from error


def hdf5_array(group: h5py.Group, name: str) -> NDArray[Any]:
    """Return a dataset of a sealed HDF5 file, if it is stored the way this library stores them.

    HDF5 can place data in other files, give them room that the file does not have, or have them
    unpacked by a library that it looks for on this machine. None of it is followed.

    Args:
        group: The file, or a group of it.
        name: The dataset's name.

    Raises:
        KeyError: There is none.
        ValueError: It is a link, of no plain numbers or bytes, or not stored whole in the file.
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
    """Return the groups in a group of a sealed HDF5 file, by name.

    Raises:
        ValueError: One of its members is a link or no group.
    """
    members = {name: _member(group, name) for name in group}
    if not all(isinstance(member, h5py.Group) for member in members.values()):
        raise ValueError(f"{group.name} holds something else than groups")
    return members


def _member(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset:
    is_link = not isinstance(group.get(name, getlink=True), h5py.HardLink)
    if is_link:
        raise ValueError(f"{name} is a link to something else")
    return group[name]


def _version(h5: h5py.File) -> int:
    version = h5.attrs["schema_version"]
    return int(version) if np.ndim(version) == 0 else -1


def check_schema_version(found: object, path: Path) -> None:
    """Refuse a file of another version of the format.

    Raises:
        CacheMismatchError: ``found`` is not the version that this library writes.
    """
    if found != SCHEMA_VERSION:
        raise CacheMismatchError(
            f"{path} is of cache schema version {found!r}; this RegionSpot reads version"
            f" {SCHEMA_VERSION}. Use the RegionSpot that wrote it, or cache again into another"
            f" folder: {CACHE_COMMAND}"
        )


def _user_block(digest: str) -> bytes:
    text = f"regionspot sealed hdf5: sha256 of all bytes from {USER_BLOCK_BYTES} on\n{digest}\n"
    return text.encode("ascii").ljust(USER_BLOCK_BYTES, b"\0")
