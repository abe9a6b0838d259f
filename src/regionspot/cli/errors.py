"""Turns deliberate errors into one message and exit code 2, and signals into one and 128 + n."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from regionspot.core.errors import RegionSpotError


def run_cli(command: Callable[[], None]) -> None:
    """Run a command; print a `RegionSpotError` as a message without traceback and exit with 2.

    Ctrl-C exits with 130, and SIGTERM inside `terminable` with 143, as shells do. Every other
    exception is a bug of ours and keeps its
    traceback.
    """
    try:
        command()
    except RegionSpotError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except _TerminatedError as error:
        print(f"terminated: {error}", file=sys.stderr)
        raise SystemExit(143) from None


@contextmanager
def terminable(advice: str) -> Iterator[None]:
    """Let SIGTERM, which schedulers send, end the block in good order.

    Args:
        advice: What to do next, for the message.
    """

    def end(_number: int, _frame: FrameType | None) -> None:
        raise _TerminatedError(advice)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _TerminatedError(BaseException):
    """SIGTERM came; like KeyboardInterrupt it is nobody's to catch but the command line's."""
