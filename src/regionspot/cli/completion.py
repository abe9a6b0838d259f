"""``regionspot completion``: complete commands and options on Tab, by shtab."""

import argparse
from collections.abc import Sequence

from regionspot.cli.help_texts import stored_options
from regionspot.cli.options import CommandParser
from regionspot.cli.run import reported_errors
from regionspot.core.text import needs_extra


@reported_errors()
def print_completion(words: Sequence[str]) -> None:
    """Print a script that completes commands, options and choices on Tab.

    For bash, add this line to ~/.bashrc: eval "$(regionspot completion bash)". For zsh, write the
    output to a file _regionspot in a folder of $fpath.
    """
    parser = CommandParser(prog="regionspot completion", description=print_completion.__doc__)
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="Name of the shell.")
    options = parser.parse_args(list(words))
    with needs_extra("completion"):
        import shtab
    script = shtab.complete(_parser(shtab.FILE), shell=options.shell)
    print(script)


def _parser(complete_files: dict[str, str]) -> argparse.ArgumentParser:
    """Return a parser of all commands with the options in their help."""
    from regionspot.cli.main import COMMANDS

    parser = argparse.ArgumentParser(prog="regionspot")
    commands = parser.add_subparsers()
    groups = {}
    for name in COMMANDS:
        first, _, second = name.partition(" ")
        if not second:
            own = commands.add_parser(first, help=COMMANDS[name][1])
            if any(other.startswith(f"{first} ") for other in COMMANDS):
                groups[first] = own.add_subparsers()
        else:
            own = groups[first].add_parser(second)
        for option, choices in stored_options(name).items():
            if option != "--help":
                added = own.add_argument(option, choices=choices or None)
                if not choices:
                    added.complete = complete_files  # type: ignore[attr-defined]
    return parser
