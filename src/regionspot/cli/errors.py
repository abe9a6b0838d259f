"""Turns deliberate errors into one message and exit code 2."""

import sys
from collections.abc import Callable

from regionspot.core.errors import RegionSpotError


def run_cli(command: Callable[[], None]) -> None:
    """Run a command; print a `RegionSpotError` as a message without traceback and exit with 2.

    Ctrl-C exits with 130, as shells do. Every other exception is a bug of ours and keeps its
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
