"""Batches side by side: order, errors, memory, and what becomes of torch's threads."""

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regionspot.backbones import FLOAT32
from regionspot.core.stopping import StoppedError, answer_signal, forget_signal, safe_points
from regionspot.core.workers import map_batches, workers_on

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@given(batches=st.lists(st.integers(), max_size=30), num_workers=st.integers(1, 4))
def test_results_come_in_the_order_of_the_batches(batches: list[int], num_workers: int) -> None:
    found = list(map_batches(str, batches, num_workers=num_workers, num_threads=1))
    assert found == list(map(str, batches))


def test_as_many_batches_run_at_once_as_there_are_workers() -> None:
    # Each waits for the other two, so with fewer workers the barrier would break.
    barrier = threading.Barrier(3, timeout=30)
    found = map_batches(lambda _: barrier.wait(), range(6), num_workers=3, num_threads=1)
    assert sorted(found) == [0, 0, 1, 1, 2, 2]


def test_batches_are_taken_only_a_few_ahead() -> None:
    taken: list[int] = []

    def batches() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    started = threading.Event()
    with closing(
        map_batches(lambda _: started.wait(30), batches(), num_workers=2, num_threads=1)
    ) as found:
        started.set()
        next(found)
        assert len(taken) <= 4
    assert len(taken) <= 4


def test_an_error_is_raised_at_the_turn_of_its_batch() -> None:
    found = map_batches(lambda x: 12 // x, [3, 2, 0, 1], num_workers=2, num_threads=1)
    assert [next(found), next(found)] == [4, 6]
    with pytest.raises(ZeroDivisionError):
        next(found)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_torch_has_its_threads_back_afterwards(num_workers: int) -> None:
    torch.set_num_threads(3)
    during = list(
        map_batches(
            lambda _: torch.get_num_threads(), range(4), num_workers=num_workers, num_threads=1
        )
    )
    assert (during, torch.get_num_threads()) == ([1, 1, 1, 1], 3)
    with closing(map_batches(str, range(4), num_workers=num_workers, num_threads=1)) as found:
        next(found)
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize(
    ("num_batches", "wanted"), [(None, (4, 1)), (9, (4, 1)), (4, (4, 1)), (3, (3, 1)), (2, (2, 2))]
)
def test_threads_are_divided_among_workers(
    num_batches: int | None, wanted: tuple[int, int]
) -> None:
    torch.set_num_threads(4)
    assert workers_on(CPU, num_batches) == wanted


def test_one_batch_or_none_has_all_threads() -> None:
    torch.set_num_threads(4)
    assert workers_on(CPU, 1) == workers_on(CPU, 0) == (1, 4)


def test_a_gpu_has_one_worker() -> None:
    assert workers_on(torch.device("cuda"), 9) == (1, torch.get_num_threads())


def test_an_encoder_stops_between_two_images() -> None:
    seen: list[int] = []

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        seen.append(len(pixels))
        answer_signal(15)
        return pixels

    try:
        with pytest.raises(StoppedError), safe_points():
            FLOAT32.encode_in_batches(encode, torch.zeros(3, 3, 8, 8), at_once=1)
    finally:
        forget_signal()
    assert seen == [1]
