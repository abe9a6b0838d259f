"""Values of options: rows of numbers, names, and pictures to write."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from regionspot.core.errors import ConfigError, VocabularyError
from regionspot.core.files import is_file
from regionspot.core.vocabulary import Vocabulary

_LIST_FILE = re.compile(r"\.(txt|text|csv|tsv|json|ya?ml|names|lst|list|md)$", re.IGNORECASE)
_PICTURES = (".png", ".jpg", ".jpeg", ".webp")
_ROW_HELP = {
    2: 'Wanted x,y in pixels of the image, for instance "45,55 20,30".',
    4: 'Wanted x1,y1,x2,y2 in pixels of the image, for instance "10,20,80,90 15,5,40,60".',
}


def parse_rows(text: str, num_values: int, *, option: str) -> list[list[float]]:
    """Parse rows of comma-separated numbers, which spaces or semicolons separate.

    Args:
        text: For instance ``"10,20,80,90 15,5,40,60"``.
        num_values: Numbers in a row, 2 or 4.
        option: Name of the option, for messages.

    Raises:
        ConfigError: A row has another number of values, or a value is not a number.
    """
    rows = [row.split(",") for row in text.replace(";", " ").split()]
    try:
        numbers = [[float(value) for value in row] for row in rows]
    except ValueError as error:
        raise ConfigError(f"{option} {text!r}: {error}. {_ROW_HELP[num_values]}") from error
    for row in numbers:
        if len(row) != num_values:
            raise ConfigError(
                f"{option} {text!r} has a row of {len(row)} numbers. {_ROW_HELP[num_values]}"
            )
    return numbers


def parse_vocabulary(text: str) -> Vocabulary:
    """Parse comma-separated names, or read a file with one name per line.

    Raises:
        MissingFileError: The text looks like a path, and there is no file.
        VocabularyError: The text or a name is empty, a name is repeated, or commas do not separate
            the names.
    """
    if not text.strip():
        raise VocabularyError(
            "--vocabulary is empty: give names separated by commas or a file with one name a line,"
            " or leave it out for the names of the training."
        )
    names = [name.strip() for name in text.split(",")]
    # Slashes may occur in names, as in "cabinet/shelf" of Objects365.
    looks_like_path = any(map(_LIST_FILE.search, names)) or (
        len(names) == 1 and any(mark in text for mark in "/\\~")
    )
    if is_file(text) or looks_like_path:
        return Vocabulary.from_file(Path(text))
    if len(names) == 1 and any(mark in text for mark in ";|\t\n"):
        raise VocabularyError(
            f"--vocabulary {text!r} is one name; wanted names separated by commas, for instance"
            ' "red heart, sea egg", or a file with one name a line.'
        )
    return Vocabulary.from_names(names)


def picture_path(
    text: str, *, option: str = "--output", suffixes: Sequence[str] = _PICTURES
) -> Path:
    """Return the path of a picture to write.

    Args:
        text: The path.
        option: Name of the option, for messages.
        suffixes: The formats, by the end of the name.

    Raises:
        ConfigError: It is no picture by its name, or cannot be written by this user.
    """
    path = Path(text)
    if path.suffix.lower() not in suffixes:
        raise ConfigError(f"{option} {text}: wanted a name that ends in {' or '.join(suffixes)}.")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if path.is_dir() or not above.is_dir():
        found = path if path.is_dir() else above
        raise ConfigError(
            f"{option} {text}: {found} is a {'folder' if found == path else 'file'}; wanted the"
            " name of a picture, in a folder that exists or can be created."
        )
    if not os.access(above, os.W_OK):
        raise ConfigError(f"{option} {text}: this user may not write to {above}.")
    return path
