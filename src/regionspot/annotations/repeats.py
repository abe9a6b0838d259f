"""Finds regions that say again what an earlier one of their image says."""

import numpy as np
from numpy.typing import NDArray

_BLOCK = 1 << 16  # what is made of so many boxes stays in the processor's cache
_ODD = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(29)


def is_repeated(
    image_rows: NDArray[np.int32], labels: NDArray[np.int32], boxes_xyxy: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Say of each region whether an earlier one has the same image, label and box, to the bit.

    Args:
        image_rows: Image of each region, (R,).
        labels: Class of each region, (R,).
        boxes_xyxy: Its box, (R, 4), contiguous.
    """
    repeated = np.zeros(len(labels), np.bool_)
    # Equal regions have equal hashes; whether those with equal hashes are equal is then looked at.
    hashes = _hashes(image_rows, labels, boxes_xyxy)
    order = np.argsort(hashes, kind="stable")
    same = hashes[order[1:]] == hashes[order[:-1]]
    suspects = np.union1d(order[1:][same], order[:-1][same])
    seen: set[tuple[int, int, bytes]] = set()
    for row in suspects.tolist():
        identity = (int(image_rows[row]), int(labels[row]), boxes_xyxy[row].tobytes())
        repeated[row] = identity in seen
        seen.add(identity)
    return repeated


def blocks_of_whole_images(rows: NDArray[np.int32]) -> list[tuple[int, int]]:
    """Cut ascending rows into blocks between two images; bounds the memory, not the result."""
    blocks, start = [], 0
    while start < len(rows):
        last = rows[min(start + _BLOCK, len(rows)) - 1]
        stop = int(np.searchsorted(rows, last, side="right"))
        blocks.append((start, stop))
        start = stop
    return blocks


def _hashes(
    image_rows: NDArray[np.int32], labels: NDArray[np.int32], boxes_xyxy: NDArray[np.float32]
) -> NDArray[np.uint64]:
    hashes = image_rows.astype(np.uint64)
    words = np.ascontiguousarray(boxes_xyxy).view(np.uint32)
    for column in (labels.view(np.uint32), *words.T):
        hashes = (hashes ^ column) * _ODD
        hashes ^= hashes >> _SHIFT
    return hashes
