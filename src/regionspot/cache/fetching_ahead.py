"""Shards of a remote cache that are fetched in the background before an image of theirs is read."""

import logging
import threading
from collections.abc import Callable

logger = logging.getLogger(__name__)

_NUM_AT_ONCE = 4


class FetchingAhead:
    """Fetches shards in threads of its own, a few at once.

    What goes wrong is left to whoever reads an image of that shard: fetching it then meets the same
    error, where it can be told. The threads do not keep a process from ending.

    Args:
        fetch: Brings a shard to this machine, unless it is there; may be called in several threads.
    """

    def __init__(self, fetch: Callable[[int], None]) -> None:
        self._fetch = fetch
        self._asked: set[int] = set()
        self._lock = threading.Lock()
        self._slots = threading.Semaphore(_NUM_AT_ONCE)

    def ask(self, shard: int) -> None:
        """Have a shard fetched soon, unless that was asked for and is not done yet."""
        with self._lock:
            if shard in self._asked:
                return
            self._asked.add(shard)
        name = f"regionspot-fetch-{shard:06d}"
        threading.Thread(target=self._run, args=(shard,), name=name, daemon=True).start()

    def _run(self, shard: int) -> None:
        try:
            with self._slots:
                self._fetch(shard)
        except Exception as error:  # noqa: BLE001 - see the class
            logger.debug("shard %d could not be fetched ahead: %s", shard, error)
        finally:
            with self._lock:
                self._asked.discard(shard)
