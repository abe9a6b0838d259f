import threading
import time

import pytest

from regionspot.data.loader import made_ahead


def prefetch_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("regionspot-prefetch")]


@pytest.mark.parametrize("depth", [1, 3, 50])
@pytest.mark.parametrize("num_threads", [1, 4])
def test_what_is_made_comes_in_the_order_of_the_plans(num_threads: int, depth: int) -> None:
    def make(plan: int) -> int:
        time.sleep(0.002 * (plan % 3))  # so that later ones are done first
        return plan * plan

    made = made_ahead(make, range(20), num_threads=num_threads, depth=depth)
    assert list(made) == [number * number for number in range(20)]
    assert prefetch_threads() == []


def test_work_is_done_ahead_but_not_further_than_the_depth() -> None:
    begun: list[int] = []
    far_enough = threading.Event()

    def make(plan: int) -> int:
        begun.append(plan)
        if plan == 3:
            far_enough.set()
        return plan

    ahead = made_ahead(make, range(100), num_threads=1, depth=3)
    assert next(ahead) == 0
    assert far_enough.wait(timeout=10)
    assert not threading.Event().wait(timeout=0.2)
    assert begun == [0, 1, 2, 3]
    ahead.close()


def test_several_threads_are_at_work_at_once() -> None:
    both = threading.Barrier(2)

    def make(plan: int) -> int:
        both.wait(timeout=10)  # nobody gets past it alone
        return plan

    assert list(made_ahead(make, range(6), num_threads=2, depth=2)) == list(range(6))


def test_an_error_arrives_after_what_was_made_before_it() -> None:
    def make(plan: int) -> int:
        if plan == 2:
            raise OSError("disk on fire")
        return plan

    ahead = made_ahead(make, range(10), num_threads=2, depth=2)
    assert [next(ahead), next(ahead)] == [0, 1]
    with pytest.raises(OSError, match="disk on fire"):
        next(ahead)
    assert prefetch_threads() == []


def test_leaving_early_ends_the_threads() -> None:
    ahead = made_ahead(lambda plan: plan, range(1000), num_threads=1, depth=2)
    next(ahead)
    assert len(prefetch_threads()) == 1
    ahead.close()
    assert prefetch_threads() == []
