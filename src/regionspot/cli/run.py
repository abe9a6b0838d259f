"""Options of a command from the fields of its configuration class, a YAML file and the shell.

Turns errors for a person into one message and exit code 2, and a stop into one and 128 + n.
"""

import errno
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import TypeVar

from jsonargparse import ArgumentParser

from regionspot.cli.config_files import prepare_parsing, readable_files
from regionspot.core.errors import RegionSpotError
from regionspot.core.stopping import StoppedError

T = TypeVar("T")


def parse_options(
    config_class: type[T], words: Sequence[str], *, prog: str, about: str | None
) -> T:
    """Read the options of the command line and of the file that ``--config`` names.

    Args:
        config_class: A dataclass; the texts below its fields become the help.
        words: What was typed after the command.
        prog: What the command is called in its help.
        about: What it does.

    Raises:
        ConfigError: An option cannot work (raised by the class itself), or the file is no text.
    """
    prepare_parsing()
    parser = ArgumentParser(prog=prog, description=about)
    parser.add_argument("--config", action="config", help="Path of a YAML file with the options.")
    parser.add_class_arguments(config_class)
    with readable_files():
        parsed = parser.parse_args(list(words))
    try:
        options = vars(parser.instantiate(parsed))
    except ValueError as error:
        deliberate = _deliberate(error)
        if deliberate is None:
            raise
        raise deliberate from None
    names = [field.name for field in fields(config_class)]  # type: ignore[arg-type]
    return config_class(**{name: options[name] for name in names})


def _deliberate(error: BaseException) -> RegionSpotError | None:
    """Find the error of a nested class, which jsonargparse wraps where the class is optional."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, RegionSpotError):
        cause = cause.__cause__ or cause.__context__
    return cause


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
