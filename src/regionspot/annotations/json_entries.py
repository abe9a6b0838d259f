"""Decodes the lists of a JSON file piece by piece, and the values in their entries.

A list has a fast decoder, for entries whose fields have exactly the expected types, and a tolerant
parser, for a piece that the fast one rejects: NaN, numbers written as 480.0, missing fields. Both
give the same for what the fast one accepts; only the tolerant one reports errors.
"""

import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import msgspec
import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from regionspot.annotations.detect_format import ListSummary, Outline
from regionspot.annotations.json_lists import MSGSPEC_ERRORS, JsonFile, JsonPiece
from regionspot.core.errors import AnnotationError

Entry = Mapping[str, object]
"""An entry as `json` decodes it: an object of anything."""

_T = TypeVar("_T")
_MAX_SHOWN = 200
_NO_BOX = (0.0, 0.0, 0.0, 0.0)
_WHOLE_NUMBER = re.compile(r"(-?[0-9]{1,20})(\.0*)?")


class Entries(ABC, Generic[_T]):
    """A list that grows piece by piece.

    The first error in an entry is kept in ``error`` rather than raised, since the format of the
    file may turn out to be another one. Later entries are only counted.
    """

    def __init__(self, decoder: "msgspec.json.Decoder[Any]") -> None:
        self.decoder = decoder
        self.error: AnnotationError | None = None
        self.count = 0

    def add(self, piece: JsonPiece) -> None:
        """Add the entries of the list's next piece."""
        try:
            entries = piece.decode(self.decoder)
        except MSGSPEC_ERRORS:
            self.count += self._add_carefully(piece)
            return
        if self.error is None and not self._take(entries):
            self._add_carefully(piece)
        self.count += len(entries)

    def check(self) -> None:
        """Raise the first error in an entry."""
        if self.error is not None:
            raise self.error

    def _add_carefully(self, piece: JsonPiece) -> int:
        values = piece.load()
        if not isinstance(values, list):
            return 0
        if self.error is None:
            try:
                self._take([self._parsed(v, self._place(piece, i)) for i, v in enumerate(values)])
            except AnnotationError as error:
                self.error = error
        return len(values)

    def _parsed(self, value: object, place: str) -> _T:
        if not isinstance(value, dict):
            raise AnnotationError(f"{place} is {str(value)[:60]!r}; wanted an object.")
        return self._parse(value, place)

    def _place(self, piece: JsonPiece, index: int) -> str:
        return f"{piece.path}: {piece.name}[{self.count + index}]"

    @abstractmethod
    def _take(self, entries: Sequence[_T]) -> bool:
        """Add decoded or parsed entries; return False if they must be parsed first."""

    @abstractmethod
    def _parse(self, entry: Entry, place: str) -> _T:
        """Parse an entry of any content, or raise an ``AnnotationError`` that names the place."""


class OtherEntries(Entries[object]):
    """A list whose entries are only counted."""

    def __init__(self) -> None:
        super().__init__(msgspec.json.Decoder(list[msgspec.Raw]))

    @override
    def _take(self, entries: Sequence[object]) -> bool:
        return True

    @override
    def _parse(self, entry: Entry, place: str) -> object:
        return None


def read_lists(file: JsonFile, readers: Mapping[str | None, Sequence[Entries[Any]]]) -> Outline:
    """Read the lists of a file.

    Each of a list's readers, found by the list's key, gets all entries; other lists are counted.
    """
    summaries: dict[str | None, ListSummary] = {}
    for container in file.containers:
        summary = summaries[container.name] = ListSummary(first=container.first())
        if container.is_list:
            own = readers.get(container.name) or [OtherEntries()]
            for piece in container.pieces(own[0].decoder):
                for reader in own:
                    reader.add(piece)
            summary.count = own[0].count
    return Outline(skeleton=file.skeleton, lists=summaries)


def read_outline(file: JsonFile) -> Outline:
    """Read only the first entry of each list of a file, to recognize its format."""
    summaries = {one.name: ListSummary(first=one.first()) for one in file.containers}
    return Outline(skeleton=file.skeleton, lists=summaries)


def entry_text(path: Path, name: str | None, index: int) -> str:
    """Return the text of entry ``index`` of a list of a valid file, for messages."""
    start = 0
    for container in JsonFile(path).containers:
        for piece in container.pieces() if container.name == name and container.is_list else ():
            values = piece.load()
            if isinstance(values, list):
                if index < start + len(values):
                    return json.dumps(values[index - start], ensure_ascii=False)[:_MAX_SHOWN]
                start += len(values)
    return ""


def whole_number(value: object, *, at_least: int = 0) -> int | None:
    """Return the whole number that a JSON value stands for; None if it stands for none.

    JSON writers that use float tables turn 480 into 480.0, and those that use text tables turn it
    into "480". All are the same number, so that ids match however each list of a file spells them.
    Numbers below ``at_least`` or beyond signed 64-bit integers are not accepted.
    """
    if isinstance(value, str):
        spelled = _WHOLE_NUMBER.fullmatch(value.strip())
        value = None if spelled is None else int(spelled[1])
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if at_least <= value < 2**63 else None


def whole_number_in(entry: Entry, field: str, place: str) -> int:
    """Return a field that must be a whole number, or raise an error that names the place."""
    number = whole_number(entry.get(field))
    if number is None:
        raise AnnotationError(
            f"{place}.{field} is {entry.get(field)!r}; wanted a whole number, 0 or more."
        )
    return number


def id_or_unknown(value: object) -> int:
    """Map what cannot be an id to -1, which no image or category has: it is counted as unknown."""
    number = whole_number(value)
    return -1 if number is None else number


def four_numbers(value: object) -> tuple[float, ...] | None:
    """Return the four numbers of a box, infinite where no float is as large; None if it is none."""
    if not isinstance(value, list) or len(value) != 4:
        return None
    if not all(isinstance(side, (int, float)) for side in value):
        return None
    try:
        return tuple(float(side) for side in value)
    except OverflowError:  # a whole number beyond all floats
        return (math.inf,) * 4


def box_columns(
    boxes: Sequence[tuple[float, ...] | None],
) -> tuple[NDArray[np.float64], NDArray[np.bool_] | None]:
    """Return boxes, (A, 4), zero where there is none; and where there is one, (A,), None if all."""
    has_box = None
    if None in boxes:
        has_box = np.array([box is not None for box in boxes], np.bool_)
        boxes = [box or _NO_BOX for box in boxes]
    sides = list(chain.from_iterable(cast("Sequence[tuple[float, ...]]", boxes)))
    return np.array(sides, np.float64).reshape(-1, 4), has_box
