"""Reads each list of a JSON file into what is to take its entries."""

from collections.abc import Callable
from typing import Any, Protocol

from regionspot.annotations.detect_format import ListSummary, Outline
from regionspot.annotations.json_entries import Entries, OtherEntries
from regionspot.annotations.json_piece import JsonPiece
from regionspot.annotations.json_stream import JsonStream


class AnyEntries(Protocol):
    """What takes the entries of a list."""

    @property
    def count(self) -> int:
        """How many it was given."""

    def add(self, piece: JsonPiece) -> None:
        """Take the entries of the list's next piece."""


class SideBySide:
    """Several readers of one list, each of which takes every entry for its own purpose."""

    def __init__(self, *readers: Entries[Any]) -> None:
        self._readers = readers

    @property
    def count(self) -> int:
        """How many entries there were."""
        return self._readers[0].count

    def add(self, piece: JsonPiece) -> None:
        """Take the entries of the list's next piece.

        Raises:
            AnnotationError: The piece is not JSON.
        """
        for reader in self._readers:
            reader.add(piece)


def read_lists(stream: JsonStream, begin: Callable[[str | None], AnyEntries]) -> Outline:
    """Read a whole file, each of its lists into what ``begin`` returns for the list's name.

    Complaints about entries are kept, for when the format of the file is known.

    Raises:
        MissingFileError: There is no such file.
        AnnotationError: The file is damaged.
    """
    summaries: dict[str | None, ListSummary] = {}
    entries: AnyEntries = OtherEntries()
    for piece in stream.pieces():
        if piece.is_first:
            entries = begin(piece.name if piece.is_list else None)
            first = piece.load_first() if piece.is_list else None
            summaries[piece.name] = ListSummary(first=first)
        entries.add(piece)
        summaries[piece.name].count = entries.count
    return Outline(skeleton=stream.skeleton, lists=summaries)
