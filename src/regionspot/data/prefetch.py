"""Work ahead in one background thread."""

import queue
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class _Item(Generic[T]):
    value: T


@dataclass(frozen=True, slots=True)
class _End:
    error: BaseException | None


def prefetched(items: Iterator[T], *, depth: int) -> Generator[T, None, None]:
    """Yield ``items`` in order while a thread makes up to ``depth`` of them ahead.

    An error in ``items`` is raised here, after the items before it. Closing this iterator stops
    and joins the thread.

    Args:
        items: Is consumed in the thread, and only there.
        depth: Items waiting at most; 1 or more.

    Yields:
        The items.
    """
    waiting: queue.Queue[_Item[T] | _End] = queue.Queue(maxsize=depth)
    stopped = threading.Event()
    thread = threading.Thread(
        target=_work, args=(items, waiting, stopped), name="regionspot-prefetch", daemon=True
    )
    thread.start()
    try:
        while isinstance(message := waiting.get(), _Item):
            yield message.value
            del message  # or the last value would be kept alive while waiting for the next
        if message.error is not None:
            raise message.error
    finally:
        stopped.set()
        thread.join()


def _work(
    items: Iterator[T], waiting: "queue.Queue[_Item[T] | _End]", stopped: threading.Event
) -> None:
    error: BaseException | None = None
    try:
        for item in items:
            if not _put(waiting, _Item(item), stopped):
                return
    except BaseException as caught:  # noqa: BLE001 - raised again where the items are consumed
        error = caught
    _put(waiting, _End(error), stopped)


def _put(
    waiting: "queue.Queue[_Item[T] | _End]", message: _Item[T] | _End, stopped: threading.Event
) -> bool:
    while not stopped.is_set():
        try:
            waiting.put(message, timeout=_POLL_S)
        except queue.Full:
            continue
        return True
    return False
