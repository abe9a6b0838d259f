"""Turns errors for a person into one message and exit code 2, and signals into one and 128 + n."""

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from regionspot.core.errors import RegionSpotError

_ALLOW = "Allow it to this user, or give another path; then give the same command again."
_MAKE_ROOM = "Make room, or give another path; then give the same command again."
_ADVICE = {
    errno.EACCES: _ALLOW,
    errno.EPERM: _ALLOW,
    errno.EROFS: _ALLOW,
    errno.ENOSPC: _MAKE_ROOM,
    errno.EDQUOT: _MAKE_ROOM,
}
"""What to do when the system refuses to read or write."""


def run_cli(command: Callable[[], None]) -> None:
    """Run a command; print a `RegionSpotError` as a message without traceback and exit with 2.

    So are full disks and missing permissions told. Ctrl-C exits with 130, and SIGTERM inside
    `terminable` with 143, as shells do. Every other exception is a bug of ours and keeps its
    traceback.
    """
    try:
        with _no_signal_lost(), _interruptible():
            command()
    except RegionSpotError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        if error.errno not in _ADVICE:
            raise
        where = error.filename or "a file that was being written"
        print(f"error: {where}: {error.strerror}. {_ADVICE[error.errno]}", file=sys.stderr)
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
    with _ended_by(signal.SIGTERM, lambda: _TerminatedError(advice)):
        yield


class _TerminatedError(BaseException):
    """SIGTERM came; like KeyboardInterrupt it is nobody's to catch but the command line's."""


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C end the block, where it is Python's to answer: jobs of a shell may ignore it."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler or (
        threading.current_thread() is not threading.main_thread()
    ):
        yield
        return
    with _ended_by(signal.SIGINT, KeyboardInterrupt):
        yield


@contextmanager
def _ended_by(number: signal.Signals, end: Callable[[], BaseException]) -> Iterator[None]:
    """Raise ``end()`` in the block when a signal comes, whatever becomes of it there.

    C code that asks an object for something may take the exception for the object's answer, and
    raise an error of its own.
    """
    came = False

    def answer(_number: int, _frame: FrameType | None) -> None:
        nonlocal came
        came = True
        raise end()

    before = signal.signal(number, answer)
    try:
        yield
    except Exception as error:
        if came:
            raise end() from error
        raise
    finally:
        signal.signal(number, before)


@contextmanager
def _no_signal_lost() -> Iterator[None]:
    """Send a signal again whose exception went nowhere.

    Python drops what is raised in a finalizer or in the callback of a weak reference, also when it
    was a signal that arrived just then.
    """
    numbers = {KeyboardInterrupt: signal.SIGINT, _TerminatedError: signal.SIGTERM}
    before = sys.unraisablehook

    def send_again(dropped: "sys.UnraisableHookArgs") -> None:
        number = numbers.get(dropped.exc_type)
        if number is None:
            return before(dropped)
        timer = threading.Timer(0.01, os.kill, (os.getpid(), number))  # after the finalizer
        timer.daemon = True
        return timer.start()

    sys.unraisablehook = send_again
    try:
        yield
    finally:
        sys.unraisablehook = before
