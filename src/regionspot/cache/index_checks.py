"""What an index must be like, so that nobody who uses it need look again.

The seal of an index says that it is as it was written, not who wrote it: a cache may come from a
stranger. Arrays are copied out of memory maps by the numbers in it, so each of these is checked
once, when a cache is opened.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regionspot.cache.feature_codec import StoredForm
from regionspot.cache.member_bytes import BLOCK_BYTES, HEADER_BYTES

_Numbers = NDArray[np.signedinteger]

_BYTES_OF_A_REGION = (16, 8, 4)  # of its box, label and box score
_MAX_WIDTH = 1 << 24
_MAX_REGIONS = 1 << 31
_KEY_LENGTH = 80
_SEAL_LENGTH = 64
_KEY_LETTERS = np.zeros(256, np.bool_)
_KEY_LETTERS[list(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")] = True

COLUMNS: dict[str, tuple[str, str]] = {
    "keys": ("S", "N"),
    "image_ids": ("i8", "N"),
    "sizes_hw": ("i4", "N2"),
    "num_regions": ("i4", "N"),
    "shards": ("i4", "N"),
    "json_offsets": ("i8", "N"),
    "data_offsets": ("i8", "N5"),
    "image_checksums": ("u8", "N"),
    "label_counts": ("i8", "C"),
    "tar_bytes": ("i8", "K"),
    "sidecar_sha256": ("S", "K"),
}
"""Dtype of each column of an index, and its sides: N images, K shards, C classes, or a number."""


def column_fault(columns: Mapping[str, NDArray[Any]]) -> str | None:
    """Say which column has another dtype or shape than `COLUMNS` wants; None if none has."""
    lengths: dict[str, int] = {}
    for name, (dtype, sides) in COLUMNS.items():
        column = columns[name]
        found = column.dtype.kind if dtype == "S" else f"{column.dtype.kind}{column.dtype.itemsize}"
        shape = column.shape[:1] + tuple(int(side) for side in sides[1:])
        if found != dtype or column.shape != shape or not column.dtype.isnative:
            return f"{name} is {column.dtype} {column.shape}"
        if lengths.setdefault(sides[0], len(column)) != len(column):
            return f"{name} has {len(column)} entries, others {lengths[sides[0]]}"
    return None


def value_fault(columns: Mapping[str, NDArray[Any]]) -> str | None:
    """Say which column of fitting dtypes and shapes holds a number that cannot be; or None."""
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
    for name, length in {"keys": _KEY_LENGTH, "sidecar_sha256": _SEAL_LENGTH}.items():
        column = columns[name]
        size = column.dtype.itemsize
        letters = np.ascontiguousarray(column).view(np.uint8).reshape(len(column), size)
        # Zeros fill up what is shorter; numpy takes them off the end only.
        used = np.arange(size) < np.char.str_len(column)[:, None]
        if size > length or not (_KEY_LETTERS[letters] | ~used).all() or not used.any(axis=1).all():
            return f"{name} holds something else than 1 to {length} of A-Z a-z 0-9 _ -"
    return None


def range_fault(
    *,
    tar_bytes: int | _Numbers,
    form: StoredForm,
    token_dim: int,
    json_offsets: _Numbers,
    data_offsets: _Numbers,
    num_regions: _Numbers,
) -> str | None:
    """Say whether an image reaches out of its tar, or its arrays out of it; None if all fit.

    No sum of theirs is formed that could exceed 64 bits.

    Args:
        tar_bytes: Size of the tar, or of that of each image, (N,).
        form: How feature maps are stored.
        token_dim: Width of position tokens.
        json_offsets: Where the ``json`` members start, (N,).
        data_offsets: Where the data of the arrays starts, (N, 5).
        num_regions: Regions of the images, (N,).
    """
    if not len(json_offsets):
        return None
    if num_regions.min() < 0 or num_regions.max() > _MAX_REGIONS:
        return f"images have {num_regions.min()} to {num_regions.max()} regions"
    widths = (*form.shape, token_dim)
    if not all(0 < width <= _MAX_WIDTH for width in widths):
        return f"arrays have the widths {widths}"
    room = np.broadcast_to(np.asarray(tar_bytes, np.int64), json_offsets.shape)
    regions = num_regions.astype(np.int64)
    sizes = [np.full(len(regions), form.num_bytes, np.int64), regions * token_dim * 2]
    sizes += [regions * num_bytes for num_bytes in _BYTES_OF_A_REGION]
    needed = np.stack(sizes, axis=1)
    outside = (data_offsets < HEADER_BYTES) | (data_offsets > room[:, None] - needed)
    outside |= ((json_offsets < BLOCK_BYTES) | (json_offsets > room - BLOCK_BYTES))[:, None]
    if outside.any():
        image = int(np.flatnonzero(outside.any(axis=1))[0])
        return f"image {image} points outside its tar"
    return None
