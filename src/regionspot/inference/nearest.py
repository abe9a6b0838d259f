"""Exact nearest neighbours: the largest cosines of queries and all rows of memory-mapped arrays.

A processor multiplies faster than memory delivers rows, so float16 rows, which are half as long,
are converted in blocks that stay in its cache. Each thread works on rows of its own.

Shape letters: Q queries, R rows, E width, K results.
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regionspot.core.workers import map_batches, workers_on

_ROWS_AT_ONCE = 16_384
_BLOCK_ROWS = 256  # 768 KB in float32 at E = 768: fits the second-level cache of a core


@dataclass(frozen=True, slots=True, kw_only=True)
class RowRange:
    """Rows of one array."""

    part: int
    """Number of the array."""
    start: int
    """Its first row."""
    stop: int
    """Its last row, exclusive."""
    offset: int
    """Number of the first row of the array among those of all arrays."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Nearest:
    """The best rows of each query, best first; equal ones in the order of the rows."""

    cosines_QK: NDArray[np.float32]  # noqa: N815 - shape letters
    """Their cosines, (Q, K)."""
    rows_QK: NDArray[np.int64]  # noqa: N815 - shape letters
    """Their numbers among the rows of all arrays, (Q, K)."""


def split_rows(counts: Sequence[int]) -> list[RowRange]:
    """Divide the rows of arrays into ranges for one thread each."""
    ranges, offset = [], 0
    for part, count in enumerate(counts):
        ranges += [
            RowRange(part=part, start=start, stop=min(start + _ROWS_AT_ONCE, count), offset=offset)
            for start in range(0, count, _ROWS_AT_ONCE)
        ]
        offset += count
    return ranges


def find_nearest(
    queries_QE: Tensor,
    counts: Sequence[int],
    read: Callable[[int], NDArray[np.float16]],
    *,
    top: int,
    masks: Sequence[NDArray[np.bool_]] | None = None,
) -> Nearest:
    """Compare queries with all rows, in float32.

    Args:
        queries_QE: Queries of unit norm, (Q, E) float32 on the CPU.
        counts: Number of rows of each array.
        read: Returns an array of unit-norm rows, (R, E) float16; called in several threads.
        top: Number of results, K; fewer if there are fewer rows.
        masks: Which rows of each array are compared, (R,) each, others have cosine -inf; None for
            all.
    """
    ranges = split_rows(counts)
    buffers = threading.local()

    @torch.inference_mode()
    def compared(rows: RowRange) -> tuple[Tensor, Tensor]:
        if not hasattr(buffers, "block"):
            buffers.block = torch.empty(_BLOCK_ROWS, queries_QE.shape[1])
        embeddings_RE = torch.from_numpy(read(rows.part)[rows.start : rows.stop])
        cosines_RQ = torch.empty(len(embeddings_RE), len(queries_QE))
        for start in range(0, len(embeddings_RE), _BLOCK_ROWS):
            half = embeddings_RE[start : start + _BLOCK_ROWS]
            block = buffers.block[: len(half)].copy_(half)
            torch.mm(block, queries_QE.T, out=cosines_RQ[start : start + _BLOCK_ROWS])
        if masks is not None:
            unwanted = ~masks[rows.part][rows.start : rows.stop]
            cosines_RQ[torch.from_numpy(unwanted)] = -torch.inf
        best = cosines_RQ.T.topk(min(top, len(cosines_RQ)), dim=1)
        return best.values, best.indices + (rows.offset + rows.start)

    num_workers, num_threads = workers_on(torch.device("cpu"), len(ranges))
    best_cosines = [torch.empty(len(queries_QE), 0)]
    best_rows = [torch.empty(len(queries_QE), 0, dtype=torch.int64)]
    with closing(
        map_batches(compared, ranges, num_workers=num_workers, num_threads=num_threads)
    ) as found:
        for cosines, rows in found:
            best_cosines.append(cosines)
            best_rows.append(rows)
    cosines_QK, rows_QK = (torch.cat(parts, dim=1).numpy() for parts in (best_cosines, best_rows))
    order_QK = np.lexsort((rows_QK, -cosines_QK))[:, :top]
    return Nearest(
        cosines_QK=np.take_along_axis(cosines_QK, order_QK, axis=1),
        rows_QK=np.take_along_axis(rows_QK, order_QK, axis=1),
    )
