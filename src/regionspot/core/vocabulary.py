"""Vocabularies: ordered, validated lists of class names."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from regionspot.core.errors import MissingFileError, VocabularyError
from regionspot.core.files import is_file, sha256_bytes

_SEPARATOR = re.compile("[,;\t]")
_NOT_UTF8 = re.compile("[\0\ud800-\udfff]")
"""Python decodes bytes in another encoding to surrogates; UTF-16 read as UTF-8 has nulls."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """An ordered list of class names; a region's label is an index into it.

    Raises:
        VocabularyError: There is no name, or a name is empty, spans lines, or occurs twice.
    """

    names: tuple[str, ...]
    """The class names, in label order."""

    def __post_init__(self) -> None:
        _check_names(self.names, place="entry", first=0)

    @classmethod
    def from_names(cls, names: Iterable[str]) -> Self:
        """Create a vocabulary from any iterable of names, which are kept unchanged."""
        return cls(tuple(names))

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Read a vocabulary from a UTF-8 text file with one name per line.

        White space around a name is removed. An empty line is an error, since it would shift all
        later labels; the line break at the end of the file is not a line.

        Raises:
            MissingFileError: There is no such file.
            VocabularyError: The file is empty, not UTF-8 text, or one line of several names; or a
                line is empty or repeats an earlier one.
        """
        if not is_file(path):
            raise MissingFileError(
                f"no vocabulary file at {path}: give a text file with one class name per line."
            )
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise VocabularyError(
                f"{path}: byte {error.start} is not UTF-8 text. Give a text file with one class"
                " name per line, saved as UTF-8."
            ) from error
        names = tuple(line.strip() for line in text.splitlines())
        if len(names) == 1 and (found := _SEPARATOR.search(names[0])):
            raise VocabularyError(
                f"{path} is one line with {found.group()!r} in it, {names[0][:60]!r}; wanted one"
                " class name per line. If these are several names, put each on a line of its own."
            )
        _check_names(names, place=f"{path}, line", first=1)
        return cls(names)

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __getitem__(self, index: int) -> str:
        return self.names[index]

    def index_of(self, name: str) -> int:
        """Return the label of a class name; raise `VocabularyError` if there is no such name."""
        try:
            return self.names.index(name)
        except ValueError:
            raise VocabularyError(
                f"{name!r} is not among the {len(self.names)} names of the vocabulary."
            ) from None

    @property
    def sha256(self) -> str:
        """SHA-256 of the names joined by line breaks, in hex."""
        return sha256_bytes("\n".join(self.names).encode("utf-8"))


def _check_names(names: tuple[str, ...], *, place: str, first: int) -> None:
    if not names:
        raise VocabularyError("the vocabulary holds no name: give at least one class name.")
    seen: dict[str, int] = {}
    for number, name in enumerate(names, start=first):
        _check_text(name, place=f"{place} {number}")
        if not name.strip() or "\n" in name:
            raise VocabularyError(
                f"{place} {number}: the class name {name!r} is empty or spans lines. Every entry"
                " needs a name: name it, or remove it (which shifts the labels after it)."
            )
        if name in seen:
            raise VocabularyError(
                f"{place} {number}: the class name {name!r} already occurs at {seen[name]}. Two"
                " labels with one name cannot be told apart: rename or remove one."
            )
        seen[name] = number


def _check_text(name: object, *, place: str) -> None:
    if not isinstance(name, str):
        raise VocabularyError(
            f"{place}: the class name {name!r} is of type {type(name).__name__}; wanted text."
        )
    if _NOT_UTF8.search(name):
        raise VocabularyError(
            f"{place}: the class name {name!r} is not UTF-8 text: it was read in another encoding."
            " Save the list as UTF-8."
        )
