import threading

from regionspot.cache.shard_pool import Prefetcher
from regionspot.core.errors import CacheCorruptError

WAIT_S = 30


def join_all() -> None:
    for thread in threading.enumerate():
        if thread.name.startswith("regionspot-fetch-"):
            thread.join(WAIT_S)
            assert not thread.is_alive()


class Gate:
    """Fetches nothing, and not before it is opened."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.most_at_once = 0
        self._at_once = 0
        self._open = threading.Event()
        self._lock = threading.Lock()

    def __call__(self, shard: int) -> None:
        with self._lock:
            self.begun.append(shard)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        assert self._open.wait(WAIT_S)
        with self._lock:
            self._at_once -= 1

    def open(self) -> None:
        self._open.set()
        join_all()


def test_a_shard_that_was_asked_for_twice_is_fetched_once_until_it_is_there() -> None:
    gate = Gate()
    ahead = Prefetcher(gate)
    for shard in (7, 7, 3, 7):
        ahead.request(shard)
    gate.open()
    assert sorted(gate.begun) == [3, 7]
    ahead.request(7)  # perhaps it was evicted meanwhile
    join_all()
    assert sorted(gate.begun) == [3, 7, 7]


def test_a_few_are_fetched_at_once() -> None:
    gate = Gate()
    ahead = Prefetcher(gate)
    for shard in range(20):
        ahead.request(shard)
    gate.open()
    assert sorted(gate.begun) == list(range(20))
    assert 1 <= gate.most_at_once <= 4


def test_what_goes_wrong_is_left_to_whoever_reads_the_shard() -> None:
    tried: list[int] = []

    def fails(shard: int) -> None:
        tried.append(shard)
        raise CacheCorruptError(f"shard {shard} is damaged")

    ahead = Prefetcher(fails)
    for _ in range(2):  # again, not remembered
        ahead.request(1)
        join_all()
    assert tried == [1, 1]
