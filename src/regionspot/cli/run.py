"""How a command ends: by an error, by a full disk, or by Ctrl-C and SIGTERM."""

import errno
import logging
import signal
import sys
from collections.abc import Callable

from regionspot.core.errors import RegionSpotError
from regionspot.core.stopping import StoppedError, answer_signal

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


def answer_signals() -> None:
    """Answer Ctrl-C and SIGTERM for the rest of this process, as `regionspot.core.stopping` says.

    A signal that the process was started to ignore, as shells do for background jobs, stays
    ignored.
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


def run_cli(command: Callable[[], None]) -> None:
    """Run a command; print a `RegionSpotError` as a message without traceback and exit with 2.

    Full disks and missing permissions are reported in the same way. A command that a signal ended
    prints what to do next and exits with 128 plus the number of the signal, as shells do: 130 for
    Ctrl-C, 143 for SIGTERM. Any other exception is a bug of ours and keeps its traceback.
    """
    try:
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
    except StoppedError as stop:
        print(stop.message, file=sys.stderr)
        raise SystemExit(stop.code) from None
