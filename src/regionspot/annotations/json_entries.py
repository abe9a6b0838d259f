"""Decodes the lists of a JSON file piece by piece: fast where every entry is as expected.

Each list has a fast decoder, for entries whose fields have exactly the expected types, and a
tolerant one, for a piece that the fast one rejects: NaN, numbers written as 480.0, missing fields.
Both give the same for what the fast one accepts; only the tolerant one reports errors.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from regionspot.annotations.detect_format import ListSummary, Outline
from regionspot.annotations.json_lists import MSGSPEC_ERRORS, JsonFile, JsonPiece
from regionspot.core.errors import AnnotationError

Entry = Mapping[str, object]
"""An entry as the tolerant decoder gives it: an object of anything."""

_T = TypeVar("_T")
_MAX_SHOWN = 200


class AnyEntries(Protocol):
    """Collects the entries of a list."""

    @property
    def count(self) -> int:
        """Entries so far."""

    @property
    def decoder(self) -> "msgspec.json.Decoder[Any]":
        """The decoder of a piece."""

    def add(self, piece: JsonPiece) -> None:
        """Add the entries of the list's next piece."""


class Entries(ABC, Generic[_T]):
    """A list that grows piece by piece.

    The first error in an entry is kept in ``error`` rather than raised, since the format of the
    file may turn out to be another one. Later entries are only counted.
    """

    def __init__(self, decoder: "msgspec.json.Decoder[list[_T]]") -> None:
        self.decoder = decoder
        self.error: AnnotationError | None = None
        self.count = 0

    def add(self, piece: JsonPiece) -> None:
        """Add the entries of the list's next piece.

        Raises:
            AnnotationError: The piece has a number, or nesting, that Python cannot decode.
        """
        try:
            entries = piece.decode(self.decoder)
        except MSGSPEC_ERRORS:
            self.count += self._add_carefully(piece)
            return
        if self.error is None and not self._take(entries):
            self._add_carefully(piece)
        self.count += len(entries)

    def _add_carefully(self, piece: JsonPiece) -> int:
        values = piece.load()
        if not isinstance(values, list):
            return 0
        if self.error is None:
            try:
                self._take_carefully(self._objects(values, piece), piece)
            except AnnotationError as error:
                self.error = error
        return len(values)

    def _objects(self, values: Sequence[object], piece: JsonPiece) -> Sequence[Entry]:
        objects = []
        for index, value in enumerate(values):
            if not isinstance(value, dict):
                place = self._place(piece, index)
                raise AnnotationError(f"{place} is {str(value)[:60]!r}; wanted an object.")
            objects.append(value)
        return objects

    def _place(self, piece: JsonPiece, index: int) -> str:
        return f"{piece.path}: {piece.name}[{self.count + index}]"

    @abstractmethod
    def _take(self, entries: Sequence[_T]) -> bool:
        """Add what the fast decoder gave; return False if the tolerant one is needed."""

    @abstractmethod
    def _take_carefully(self, entries: Sequence[Entry], piece: JsonPiece) -> None:
        """Add entries of any content, or raise ``AnnotationError``."""


class OtherEntries:
    """A list of no further interest, of which the entries are counted."""

    def __init__(self) -> None:
        self.count = 0
        self.decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(list[msgspec.Raw])

    def add(self, piece: JsonPiece) -> None:
        """Count the entries of the list's next piece.

        Raises:
            AnnotationError: The piece has a number, or nesting, that Python cannot decode.
        """
        try:
            self.count += len(piece.decode(self.decoder))
        except MSGSPEC_ERRORS:
            values = piece.load()
            self.count += len(values) if isinstance(values, list) else 0


class SideBySide:
    """Several readers of one list, each of which reads every entry for its own purpose."""

    def __init__(self, *readers: Entries[Any]) -> None:
        self._readers = readers

    @property
    def count(self) -> int:
        """Entries so far."""
        return self._readers[0].count

    @property
    def decoder(self) -> "msgspec.json.Decoder[Any]":
        """The decoder of the first reader."""
        return self._readers[0].decoder

    def add(self, piece: JsonPiece) -> None:
        """Add the entries of the list's next piece to each.

        Raises:
            AnnotationError: The piece has a number, or nesting, that Python cannot decode.
        """
        for reader in self._readers:
            reader.add(piece)


def read_lists(file: JsonFile, begin: Callable[[str | None], AnyEntries]) -> Outline:
    """Read each list of a file into what ``begin`` returns for the list's name.

    Raises:
        AnnotationError: A list has a number, or nesting, that Python cannot decode.
    """
    summaries: dict[str | None, ListSummary] = {}
    for container in file.containers:
        summary = summaries[container.name] = ListSummary(first=container.first())
        if container.is_list:
            entries = begin(container.name)
            for piece in container.pieces(entries.decoder):
                entries.add(piece)
            summary.count = entries.count
    return Outline(skeleton=file.skeleton, lists=summaries)


def entry_text(path: Path, name: str | None, index: int) -> str:
    """Return the text of one entry of a list, for messages.

    Args:
        path: The file, which was read before.
        name: Key of the list; None if the list is the file.
        index: Which entry, counted from 0.
    """
    start = 0
    for container in JsonFile(path).containers:
        for piece in container.pieces() if container.name == name and container.is_list else ():
            values = piece.load()
            if isinstance(values, list):
                if index < start + len(values):
                    return json.dumps(values[index - start], ensure_ascii=False)[:_MAX_SHOWN]
                start += len(values)
    return ""
