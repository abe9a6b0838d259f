"""The nearest rows of queries, against plain products in numpy and faiss's exact index."""

import faiss
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from regionspot.inference.nearest import find_nearest, split_rows

WIDTH = 24
COUNTS = (700, 0, 1, 20_000)
"""Rows of each array: one takes several blocks, one several threads, one is empty."""


@pytest.fixture(scope="module")
def arrays() -> list[NDArray[np.float16]]:
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=(count, WIDTH)) for count in COUNTS]
    return [(row / np.linalg.norm(row, axis=1, keepdims=True)).astype(np.float16) for row in rows]


@pytest.fixture(scope="module")
def queries() -> NDArray[np.float32]:
    drawn = np.random.default_rng(1).normal(size=(3, WIDTH))
    normal: NDArray[np.float32] = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype("f")
    return normal


def test_the_nearest_are_those_of_a_plain_product_and_of_faiss(
    arrays: list[NDArray[np.float16]], queries: NDArray[np.float32]
) -> None:
    found = find_nearest(torch.from_numpy(queries), COUNTS, arrays.__getitem__, top=50)
    together = np.concatenate(arrays).astype(np.float32)
    products = queries.astype(np.float64) @ together.T.astype(np.float64)
    np.testing.assert_array_equal(found.rows_QK, np.argsort(-products, axis=1)[:, :50])
    flat = faiss.IndexFlatIP(WIDTH)
    flat.add(together)
    cosines, rows = flat.search(queries, 50)
    np.testing.assert_array_equal(found.rows_QK, rows)
    np.testing.assert_allclose(found.cosines_QK, cosines, atol=1e-6)


def test_masked_rows_are_not_found_and_fewer_rows_give_fewer_results(
    arrays: list[NDArray[np.float16]], queries: NDArray[np.float32]
) -> None:
    rng = np.random.default_rng(2)
    masks = [rng.random(count) < 0.01 for count in COUNTS]
    wanted = np.flatnonzero(np.concatenate(masks))
    found = find_nearest(
        torch.from_numpy(queries), COUNTS, arrays.__getitem__, top=10**6, masks=masks
    )
    assert found.rows_QK.shape == (3, sum(COUNTS))
    for cosines, rows in zip(found.cosines_QK, found.rows_QK, strict=True):
        np.testing.assert_array_equal(np.sort(rows[cosines > -np.inf]), wanted)


def test_equal_rows_are_in_order(queries: NDArray[np.float32]) -> None:
    same = np.repeat(queries[:1], 40_000, axis=0).astype(np.float16)
    found = find_nearest(torch.from_numpy(queries[:1]), [40_000], lambda _part: same, top=40_000)
    np.testing.assert_array_equal(found.rows_QK[0], np.arange(40_000))


@pytest.mark.parametrize("counts", [(), (0,), (1, 0, 16_384, 16_385, 100_000)])
def test_every_row_is_in_one_range(counts: tuple[int, ...]) -> None:
    covered = [
        row
        for one in split_rows(counts)
        for row in range(one.offset + one.start, one.offset + one.stop)
    ]
    assert covered == list(range(sum(counts)))
