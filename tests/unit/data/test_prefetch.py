import threading
from collections.abc import Iterator

import pytest

from regionspot.data.prefetch import prefetched


def prefetch_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "regionspot-prefetch"]


@pytest.mark.parametrize("depth", [1, 3, 50])
def test_items_come_in_order_and_the_thread_ends(depth: int) -> None:
    assert list(prefetched(iter(range(20)), depth=depth)) == list(range(20))
    assert prefetch_threads() == []


def test_work_is_done_ahead_but_not_further_than_the_depth() -> None:
    made: list[int] = []
    far_enough = threading.Event()

    def items() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            if number == 4:
                far_enough.set()
            yield number

    ahead = prefetched(items(), depth=3)
    assert next(ahead) == 0
    assert far_enough.wait(timeout=10)  # 3 wait, and one more is in the thread's hands
    assert not threading.Event().wait(timeout=0.2)
    assert made == [0, 1, 2, 3, 4]
    ahead.close()


def test_an_error_arrives_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("disk on fire")

    ahead = prefetched(items(), depth=2)
    assert next(ahead) == 1
    with pytest.raises(OSError, match="disk on fire"):
        next(ahead)
    assert prefetch_threads() == []


def test_leaving_early_ends_the_thread() -> None:
    ahead = prefetched(iter(range(1000)), depth=2)
    next(ahead)
    assert len(prefetch_threads()) == 1
    ahead.close()
    assert prefetch_threads() == []
