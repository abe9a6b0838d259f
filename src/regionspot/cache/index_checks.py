"""Checks of the columns of an index, run once when a cache is opened.

A seal proves that an index was not changed, not who wrote it: a cache may come from a stranger.
Arrays are copied out of memory maps by the numbers in the index, so all of them are checked.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regionspot.cache.layout import MAX_KEY_LENGTH

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
"""Dtype and shape of each column of an index: N images, K shards, C classes, or a number."""


def column_fault(columns: Mapping[str, NDArray[Any]]) -> str | None:
    """Return which column has another dtype or shape than in `COLUMNS`; None if none has."""
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
    """Return which column has an impossible value; None if none has. Call `column_fault` first."""
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
