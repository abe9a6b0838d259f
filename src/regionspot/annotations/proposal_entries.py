"""The entries of proposal files in columns: COCO results, and GLIP's boxes by image.

A box that is none (three numbers, NaN) is dropped and counted, as in annotations. An image id or a
score that cannot be read is an error, since its meaning is unknown.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from regionspot.annotations.assembly import whole_number
from regionspot.annotations.box_checks import DropReasons, check_xywh, check_xyxy
from regionspot.annotations.coco_entries import NO_BOX, four_numbers
from regionspot.annotations.json_entries import Entries, Entry
from regionspot.annotations.json_lists import MSGSPEC_ERRORS, JsonPiece
from regionspot.core.errors import AnnotationError

_Id = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_Score = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Sides = tuple[float, float, float, float]

_LOWEST_ID = -(2**63)  # ids of OpenImages are 64 bits with a sign
_IMAGES_AT_ONCE = 256


class _Result(msgspec.Struct, gc=False):
    image_id: _Id
    bbox: _Sides
    score: _Score


class _ImageBoxes(msgspec.Struct, gc=False):
    boxes: list[_Sides]
    scores: list[_Score]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ProposalColumns:
    """All proposals of a file, in its order; (A,) each."""

    image_ids: NDArray[np.int64]
    boxes_xyxy: NDArray[np.float32]
    """Boxes, (A, 4), zero where anything is wrong."""
    faults: DropReasons
    scores: NDArray[np.float32]

    @classmethod
    def joined(cls, blocks: Sequence["ProposalColumns"]) -> "ProposalColumns":
        """Put columns one below the other."""
        return cls(
            image_ids=np.concatenate([np.zeros(0, np.int64), *(b.image_ids for b in blocks)]),
            boxes_xyxy=np.concatenate(
                [np.zeros((0, 4), np.float32), *(b.boxes_xyxy for b in blocks)]
            ),
            faults=np.concatenate([np.zeros(0, np.int8), *(b.faults for b in blocks)]),
            scores=np.concatenate([np.zeros(0, np.float32), *(b.scores for b in blocks)]),
        )


class CocoResults(Entries[_Result]):
    """A list of ``{image_id, bbox [x, y, width, height], score}``; further keys are ignored."""

    def __init__(self) -> None:
        super().__init__(msgspec.json.Decoder(list[_Result]))
        self._blocks: list[ProposalColumns] = []

    def finish(self) -> ProposalColumns:
        """Return everything, when all pieces have been taken, or raise the first complaint."""
        if self.error is not None:
            raise self.error
        return ProposalColumns.joined(self._blocks)

    @override
    def _place(self, piece: JsonPiece, index: int) -> str:
        return f"{piece.path}: proposals[{self.count + index}]"

    @override
    def _take(self, entries: Sequence[_Result]) -> bool:
        self._add(
            image_ids=[entry.image_id for entry in entries],
            boxes=[entry.bbox for entry in entries],
            scores=[entry.score for entry in entries],
        )
        return True

    @override
    def _take_carefully(self, entries: Sequence[Entry], piece: JsonPiece) -> None:
        places = [self._place(piece, index) for index in range(len(entries))]
        self._add(
            image_ids=[_image_id(entry, at) for entry, at in zip(entries, places, strict=True)],
            boxes=[four_numbers(entry.get("bbox")) for entry in entries],
            scores=[_score_of(entry, at) for entry, at in zip(entries, places, strict=True)],
        )

    def _add(
        self,
        *,
        image_ids: list[int],
        boxes: Sequence[tuple[float, ...] | None],
        scores: list[float],
    ) -> None:
        boxes_xyxy, faults = check_xywh(*_columns(boxes))
        self._blocks.append(
            ProposalColumns(
                image_ids=np.array(image_ids, np.int64),
                boxes_xyxy=boxes_xyxy,
                faults=faults,
                scores=np.array(scores, np.float32),
            )
        )


class GlipBoxes:
    """An object ``{image id: {"boxes": [[x1, y1, x2, y2], ...], "scores": [...]}}``.

    Further keys of an image (``labels``) are ignored.
    """

    def __init__(self) -> None:
        self.decoder = msgspec.json.Decoder(_ImageBoxes)
        self._known: set[int] = set()
        self._blocks: list[ProposalColumns] = []
        self._ids: list[int] = []
        self._counts: list[int] = []
        self._boxes: list[Sequence[tuple[float, ...] | None]] = []
        self._scores: list[list[float]] = []

    def add(self, piece: JsonPiece) -> None:
        """Add the boxes of one image.

        Raises:
            AnnotationError: The image cannot be read; says which.
        """
        place = f"{piece.path}: image {piece.name!r}"
        image_id = image_id_of_key(piece.name or "")
        if image_id is None:
            raise AnnotationError(f"{place} is no image id; wanted a whole number, as text.")
        if image_id in self._known:
            raise AnnotationError(f"{place} is there twice. Put all its boxes under one key.")
        self._known.add(image_id)
        boxes: Sequence[tuple[float, ...] | None]
        try:
            found = piece.decode(self.decoder)
            boxes, scores = found.boxes, found.scores
        except MSGSPEC_ERRORS:
            boxes, scores = _read_image(piece.load(), place)
        if len(boxes) != len(scores):
            raise AnnotationError(
                f"{place} has {len(boxes):,} boxes and {len(scores):,} scores; wanted one score"
                " for each box."
            )
        self._ids.append(image_id)
        self._counts.append(len(boxes))
        self._boxes.append(boxes)
        self._scores.append(scores)
        if len(self._ids) == _IMAGES_AT_ONCE:
            self._flush()

    def finish(self) -> ProposalColumns:
        """Return the boxes of all images."""
        self._flush()
        return ProposalColumns.joined(self._blocks)

    def _flush(self) -> None:
        """Turn the images read so far into columns; arrays for each alone would be slow."""
        boxes_xyxy, faults = check_xyxy(*_columns(list(chain.from_iterable(self._boxes))))
        self._blocks.append(
            ProposalColumns(
                image_ids=np.repeat(np.array(self._ids, np.int64), self._counts),
                boxes_xyxy=boxes_xyxy,
                faults=faults,
                scores=np.array(list(chain.from_iterable(self._scores)), np.float32),
            )
        )
        for pending in (self._ids, self._counts, self._boxes, self._scores):
            pending.clear()


def image_id_of_key(key: str) -> int | None:
    """Return the image id that a key spells, or None."""
    return whole_number(key, at_least=_LOWEST_ID)


def _read_image(value: object, place: str) -> tuple[list[tuple[float, ...] | None], list[float]]:
    if not isinstance(value, dict):
        raise AnnotationError(
            f"{place} is {str(value)[:60]!r}; wanted an object with the lists boxes and scores."
        )
    for name in ("boxes", "scores"):
        if not isinstance(value.get(name), list):
            keys = ", ".join(value) or "none"
            raise AnnotationError(f"{place} has no list {name!r} (keys: {keys}).")
    scores = [_score(s, f"{place}: scores[{n}]") for n, s in enumerate(value["scores"])]
    return [four_numbers(box) for box in value["boxes"]], scores


def _columns(
    boxes: Sequence[tuple[float, ...] | None],
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return boxes, (A, 4), zero where there is none, and where there is one, (A,)."""
    sides = chain.from_iterable(NO_BOX if box is None else box for box in boxes)
    has_box = np.array([box is not None for box in boxes], np.bool_)
    return np.fromiter(sides, np.float64, 4 * len(boxes)).reshape(-1, 4), has_box


def _image_id(entry: Entry, place: str) -> int:
    if "image_id" not in entry:
        raise AnnotationError(f"{place} has no image_id (keys: {', '.join(entry) or 'none'}).")
    number = whole_number(entry["image_id"], at_least=_LOWEST_ID)
    if number is None:
        raise AnnotationError(f"{place}.image_id is {entry['image_id']!r}; wanted a whole number.")
    return number


def _score_of(entry: Entry, place: str) -> float:
    if "score" not in entry:
        raise AnnotationError(
            f"{place} has no score (keys: {', '.join(entry) or 'none'}); proposals are boxes with"
            " scores from a detector."
        )
    return _score(entry["score"], f"{place}.score")


def _score(value: object, place: str) -> float:
    hint = ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        if 0 <= value <= 1:
            return float(value)
        hint = " If it is a logit x, write 1 / (1 + exp(-x))."
    raise AnnotationError(f"{place} is {value!r:.60}; wanted a number from 0 to 1.{hint}")
