"""Work that threads do ahead of the one who needs it, in order."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Plan = TypeVar("Plan")
Made = TypeVar("Made")


def made_ahead(
    make: Callable[[Plan], Made], plans: Iterable[Plan], *, num_threads: int, depth: int
) -> Generator[Made, None, None]:
    """Yield ``make(plan)`` for every plan, in order, while threads are at work on the next ones.

    An error in ``make`` is raised here, after what was made before it. Closing this iterator ends
    the threads once what they are at is done.

    Args:
        make: Is called in the threads, in several at once.
        plans: Is consumed here, a few plans ahead.
        num_threads: How many threads; 1 or more.
        depth: How many are made, or being made, while the consumer is at work on one; 1 or more.

    Yields:
        What was made.
    """
    ahead: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(num_threads, thread_name_prefix="regionspot-prefetch") as threads:
        try:
            for plan in plans:
                ahead.append(threads.submit(make, plan))
                if len(ahead) > depth:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()
