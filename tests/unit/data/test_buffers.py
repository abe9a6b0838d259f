import gc

import torch

from regionspot.data.collate import BufferPool


def test_memory_is_used_again_once_nobody_looks_at_it() -> None:
    pool = BufferPool()
    for _ in range(5):
        tensor = pool.take((4, 3), torch.float32)
        assert tensor.shape == (4, 3)
        assert tensor.is_contiguous()
        del tensor
    assert pool.num_allocated == 1


def test_the_first_tensor_may_be_empty() -> None:
    pool = BufferPool()
    assert pool.take((0, 5, 16), torch.float16).shape == (0, 5, 16)
    assert pool.take((2, 3), torch.float16).shape == (2, 3)


def test_a_kept_tensor_keeps_its_content() -> None:
    pool = BufferPool()
    kept = pool.take((2, 3), torch.float32).fill_(1.0)
    pool.take((2, 3), torch.float32).fill_(2.0)
    assert (kept == 1.0).all()
    assert pool.num_allocated == 2


def test_a_view_or_autograd_keeps_the_memory_as_well() -> None:
    pool = BufferPool()
    row = pool.take((2, 3), torch.float32).fill_(1.0)[1]
    weight = torch.ones(3, requires_grad=True)
    product = (pool.take((3,), torch.float32).fill_(5.0) * weight).sum()
    gc.collect()
    pool.take((6,), torch.float32).fill_(7.0)
    pool.take((3,), torch.float32).fill_(7.0)
    assert (row == 1.0).all()
    product.backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [5.0, 5.0, 5.0]


def test_an_empty_tensor_is_had_from_an_empty_pool() -> None:
    assert BufferPool().take((0, 3, 5), torch.float16).shape == (0, 3, 5)


def test_a_smaller_tensor_fits_into_a_larger_memory() -> None:
    pool = BufferPool()
    for shape in [(4, 3), (2, 3), (1, 3), (4, 3), (0, 3)]:
        assert pool.take(shape, torch.float32).shape == shape
    assert pool.num_allocated == 1


def test_a_memory_that_is_too_small_is_replaced() -> None:
    pool = BufferPool()
    for size in [1, 10, 5, 10]:
        pool.take((size,), torch.float32)
    assert pool.num_allocated == 2
