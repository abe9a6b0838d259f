"""Writes shards in a thread of their own, so that hashing and fsync never wait on the models.

The main thread puts batches once the models have run on them. Only few batches wait between the
two, so memory is bounded, and a slow disk holds the models back.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from regionspot.cache import QuarantinedImage
from regionspot.core.stopping import check_stop
from regionspot.extraction.featurize import LaunchedBatch

_WAITING = 2
"""Batches that wait for the writer at most; one more is being written."""
_POLL_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardBatch:
    """Consecutive images of one shard, on their way to the writer."""

    shard_index: int
    """The shard."""
    num_images: int
    """Images of the plan in it, usable or not."""
    launched: LaunchedBatch | None
    """Those that could be used; None if there are none."""
    quarantined: Sequence[QuarantinedImage]
    """Those that could not."""
    ends_shard: bool
    """Whether it is the last of its shard."""


WriteShard = Callable[[int, Iterator[ShardBatch]], None]
"""Writes the shard of a number from its batches."""


class WriterThread:
    """A thread that writes shards, inside of a ``with`` block.

    However the block ends, the thread ends with it. When it ends well, all that was put is written.
    So it is when it ends by an error, but for a shard that is not complete, which is left as a
    crash would leave it. When a signal ends it, what waits is not written any more.

    An error of the writer is raised by the next `put`, or at the end of the block.

    Args:
        write: Writes a shard; called in the thread, for one shard after the other.
    """

    def __init__(self, write: WriteShard) -> None:
        self._write = write
        self._waiting: queue.Queue[ShardBatch | None] = queue.Queue(maxsize=_WAITING)
        self._error: BaseException | None = None
        self._ended = threading.Event()  # on either side: nothing is put or taken any more
        # A daemon: a second Ctrl-C ends the process, though Python alone would wait for the thread.
        self._thread = threading.Thread(target=self._run, name="regionspot-writer", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def put(self, batch: ShardBatch) -> None:
        """Hand a batch over, once there is room for it; batches of a shard follow each other.

        Raises:
            StoppedError: A signal was noted.
            BaseException: Whatever the writer stumbled over.
        """
        self._put(batch)
        if self._error is not None:
            raise self._error

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and not isinstance(error, Exception):
            self._ended.set()
        try:
            self._put(None)
            while self._thread.is_alive():
                self._thread.join(_POLL_S)
                if error is None:
                    check_stop()
        except BaseException:  # a signal while the rest is being written
            self._ended.set()
            self._thread.join()
            raise
        if self._error is not None and error is None:
            raise self._error

    def _put(self, message: ShardBatch | None) -> None:
        while not self._ended.is_set():
            try:
                self._waiting.put(message, timeout=_POLL_S)
            except queue.Full:
                check_stop()
                continue
            return

    def _run(self) -> None:
        try:
            while (first := self._next()) is not None:
                self._write(first.shard_index, self._of_shard(first))
        except _IncompleteShardError:
            pass  # the main thread knows why
        except BaseException as error:  # noqa: BLE001 - raised again in the main thread
            self._error = error
        finally:
            self._ended.set()

    def _of_shard(self, batch: ShardBatch) -> Iterator[ShardBatch]:
        yield batch
        while not batch.ends_shard:
            following = self._next()
            if following is None:
                raise _IncompleteShardError
            batch = following
            yield batch

    def _next(self) -> ShardBatch | None:
        while not self._ended.is_set():
            try:
                return self._waiting.get(timeout=_POLL_S)
            except queue.Empty:
                continue
        return None


class _IncompleteShardError(Exception):
    """The main thread ended amid a shard."""
