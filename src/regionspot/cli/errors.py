"""Turns errors for a person into one message and exit code 2, and a stop into one and 128 + n."""

import errno
import sys
from collections.abc import Callable

from regionspot.core.errors import RegionSpotError
from regionspot.core.stopping import StoppedError

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

    So are full disks and missing permissions told. Where a signal ended the command, say what to do
    next, and exit with 128 and its number, as shells do: 130 for Ctrl-C, 143 for SIGTERM. Every
    other exception is a bug of ours and keeps its traceback.
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
