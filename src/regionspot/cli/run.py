"""How a command ends: exit codes and messages for errors, full disks, Ctrl-C and SIGTERM."""

import errno
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from regionspot.core.errors import RegionSpotError
from regionspot.core.stopping import StoppedError, answer_signal

_ALLOW = "Grant this user access, or give another path; then run the same command again."
_MAKE_ROOM = "Make room, or give another path; then run the same command again."
_ADVICE = {
    errno.EACCES: _ALLOW,
    errno.EPERM: _ALLOW,
    errno.EROFS: _ALLOW,
    errno.ENOSPC: _MAKE_ROOM,
    errno.EDQUOT: _MAKE_ROOM,
}
"""What to do about an error of the operating system, by ``errno``."""


def answer_signals() -> None:
    """Install the handler of `regionspot.core.stopping` for Ctrl-C and SIGTERM.

    Signals that the process ignores from the start, as background jobs of a shell do, stay ignored.
    """
    for number, default in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGTERM, signal.SIG_DFL),
    ):
        if signal.getsignal(number) is default:
            signal.signal(number, answer_signal)


def show_progress() -> None:
    """Print log messages of level INFO and above to stderr, without prefix."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")


@contextmanager
def reported_errors() -> Iterator[None]:
    """Print errors meant for the user without a traceback, and exit; also works as a decorator.

    `RegionSpotError`, full disks and missing permissions exit with code 2. A signal exits with 128
    plus its number, as in shells: 130 for Ctrl-C, 143 for SIGTERM. The traceback of any other
    exception is kept, since it is a bug.
    """
    try:
        yield
    except RegionSpotError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        if error.errno not in _ADVICE:
            raise
        where = error.filename or "a file being written"
        print(f"error: {where}: {error.strerror}. {_ADVICE[error.errno]}", file=sys.stderr)
        raise SystemExit(2) from None
    except StoppedError as stop:
        print(stop.message, file=sys.stderr)
        raise SystemExit(stop.code) from None


@contextmanager
def ended_reader_exits() -> Iterator[None]:
    """Exit with 141, as shells report SIGPIPE, if what reads stdout, such as ``head``, has ended.

    Only around code that writes to no other pipe or socket.
    """
    try:
        yield
    except BrokenPipeError:
        # What is still buffered is flushed at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None
