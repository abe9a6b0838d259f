"""The help of every command, as text files in the package.

Making it takes the parsers, which import torch, and so takes seconds. After an option has changed,
``python -m regionspot.cli.help_texts`` writes the files again; a test compares them with the
parsers. Completion and the check for mistyped options also read them.
"""

import io
import os
import re
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from importlib.resources import files
from pathlib import Path
from typing import Final

from regionspot.core.files import write_text_atomic

COLUMNS: Final = 80
"""Width of the texts."""
WRITTEN_BY_HAND: Final = ("fit", "validate")
"""Commands whose help is written by hand: one screen, where Lightning's has hundreds of options."""

# An option, with its choices.
_OPTION = re.compile(r"^  (?:-\w, )?(--[\w.-]+)(?: \{([^}\n]+)\})?", re.MULTILINE)


def stored_help(command: str) -> str:
    """Return the help of a command."""
    return (files("regionspot") / "cli" / "help" / _name(command)).read_text(encoding="utf-8")


def stored_options(command: str) -> dict[str, list[str]]:
    """Return the options in the help of a command, with the choices of those that have them."""
    found = _OPTION.findall(stored_help(command))
    return {option: choices.split(",") if choices else [] for option, choices in found}


def unlisted_option(command: str, words: Sequence[str]) -> str | None:
    """Return the first option that the help of a command does not list; None if there is none.

    Args:
        command: The command, not one whose help is written by hand.
        words: The words after it. As in argparse, an option may be abbreviated, and words with a
            space, or after ``--``, are none.
    """
    known = stored_options(command)
    for word in words:
        if word == "--":
            break
        option = word.partition("=")[0].removesuffix("+")
        parents = [option[: match.start()] for match in re.finditer(r"\.", option)]
        is_known = any(name.startswith(option) for name in known) or any(
            f"{parent}.help" in known  # lists the options below the parent
            for parent in parents
        )
        if word.startswith("--") and " " not in option and not is_known:
            return option
    return None


def rendered_help(command: str) -> str:
    """Return the help of a command as its parser writes it."""
    from regionspot.cli.main import LIGHTNING, function_of

    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(COLUMNS)
    output = io.StringIO()
    try:
        with redirect_stdout(output), suppress(SystemExit):
            function_of(command)([command, "--help"] if command in LIGHTNING else ["--help"])
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
    return output.getvalue()


def _name(command: str) -> str:
    return f"{command.replace(' ', '_')}.txt"


def write_help_texts() -> None:
    """Write the help of all commands into the package."""
    from regionspot.cli.main import COMMANDS

    for command in COMMANDS:
        if command not in WRITTEN_BY_HAND:
            path = Path(__file__).parent / "help" / _name(command)
            write_text_atomic(path, rendered_help(command))


if __name__ == "__main__":
    write_help_texts()
