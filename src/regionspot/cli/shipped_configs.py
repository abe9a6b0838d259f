"""The configurations in the package, which a command finds as ``configs/...`` from any folder."""

import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

_FOLDER = "configs/"


def shipped_text(name: str) -> str:
    """Return the text of a configuration in the package, such as ``configs/toy/cache.yaml``."""
    return (files("regionspot") / name).read_text(encoding="utf-8")


def with_shipped_configs(words: Sequence[str]) -> list[str]:
    """Replace configurations that are only in the package by their full path.

    A file below the current folder comes first. A line on stderr says which file is used instead.

    Args:
        words: The words of a command; a path is a word, or what follows ``=`` in an option.
    """
    return [_with_shipped(word) for word in words]


def _with_shipped(word: str) -> str:
    option, equals, path = word.partition("=") if word.startswith("-") else ("", "", word)
    if not path.startswith(_FOLDER) or Path(path).exists():
        return word
    shipped = files("regionspot") / path
    if not shipped.is_file():
        return word
    print(f"{path} is not in this folder; using the package's {shipped}", file=sys.stderr)
    return f"{option}{equals}{shipped}"
