"""Options of a command from the fields of its configuration class, a YAML file and the shell."""

from collections.abc import Sequence
from dataclasses import fields
from typing import TypeVar

from jsonargparse import ArgumentParser

from regionspot.cli.config_files import prepare_parsing, readable_files
from regionspot.core.errors import RegionSpotError

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
