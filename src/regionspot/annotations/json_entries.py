"""Decodes the lists of a JSON file piece by piece: fast where all is as it should be.

Each list has a fast decoder, which takes entries whose fields have just the wanted types, and a
careful one, for a piece in which the fast one meets anything else: NaN, numbers as 480.0, missing
fields. Both give the same for what the fast one takes; only the careful one complains.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

import msgspec
from typing_extensions import override

from regionspot.annotations.json_piece import JsonPiece
from regionspot.core.errors import AnnotationError

Entry = Mapping[str, object]
"""An entry as the careful decoder gives it: an object of anything."""

_T = TypeVar("_T")


class Entries(ABC, Generic[_T]):
    """A list that grows piece by piece. The first complaint is kept, the rest only counted."""

    def __init__(self, decoder: "msgspec.json.Decoder[list[_T]]") -> None:
        self._decoder = decoder
        self.error: AnnotationError | None = None
        self.count = 0

    def add(self, piece: JsonPiece) -> None:
        """Take the entries of the list's next piece.

        Raises:
            AnnotationError: The piece is not JSON.
        """
        try:
            entries = self._decoder.decode(piece.document)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
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
        """Take what the fast decoder gave, or say that it will not do."""

    @abstractmethod
    def _take_carefully(self, entries: Sequence[Entry], piece: JsonPiece) -> None:
        """Take entries of any content, or raise ``AnnotationError``."""


class OtherEntries(Entries[msgspec.Raw]):
    """A list or object of no further interest; it is checked to be JSON, and a list counted."""

    def __init__(self) -> None:
        super().__init__(msgspec.json.Decoder(list[msgspec.Raw]))

    @override
    def _objects(self, values: Sequence[object], piece: JsonPiece) -> Sequence[Entry]:
        return []

    @override
    def _take(self, entries: Sequence[msgspec.Raw]) -> bool:
        return True

    @override
    def _take_carefully(self, entries: Sequence[Entry], piece: JsonPiece) -> None:
        pass
