"""The entries of proposal files in columns: COCO results, and GLIP's boxes by image.

Invalid boxes (three numbers, NaN) are dropped and counted, as in annotations. An image id or a
score that cannot be read is an error, since its meaning is unknown.
"""

from collections.abc import Sequence
from typing import Annotated, cast

import msgspec
import numpy as np
from typing_extensions import override

from regionspot.annotations.box_checks import BoxLayout, check_boxes
from regionspot.annotations.columns import GrowingColumns
from regionspot.annotations.json_entries import (
    Entries,
    Entry,
    box_columns,
    four_numbers,
    whole_number,
)
from regionspot.annotations.json_lists import MSGSPEC_ERRORS, JsonPiece
from regionspot.core.errors import AnnotationError

_Id = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_Score = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Sides = tuple[float, float, float, float]
_Boxes = Sequence[tuple[float, ...] | None]

_LOWEST_ID = -(2**63)  # ids of OpenImages are signed 64-bit integers
_BOXES_AT_ONCE = 1 << 14


class _Result(msgspec.Struct, gc=False):
    image_id: _Id
    bbox: _Sides
    score: _Score


class _ImageBoxes(msgspec.Struct, gc=False):
    boxes: list[_Sides]
    scores: list[_Score]


class ProposalColumns(GrowingColumns):
    """All proposals of a file, in its order; boxes are zero where ``faults`` has a reason."""

    def __init__(self, layout: BoxLayout) -> None:
        self.layout = layout
        super().__init__(
            image_ids=np.int64, boxes_xyxy=(np.float32, 4), faults=np.int8, scores=np.float32
        )

    def add_boxes(self, image_ids: Sequence[int], boxes: _Boxes, scores: Sequence[float]) -> None:
        """Check boxes, and append them."""
        numbers, has_box = box_columns(boxes)
        boxes_xyxy, faults = check_boxes(numbers, self.layout, has_box)
        self.add(image_ids=image_ids, boxes_xyxy=boxes_xyxy, faults=faults, scores=scores)


class CocoResults(Entries[_Result]):
    """A list of ``{image_id, bbox [x, y, width, height], score}``; further keys are ignored."""

    def __init__(self) -> None:
        super().__init__(msgspec.json.Decoder(list[_Result]))
        self._columns = ProposalColumns("xywh")

    def finish(self) -> ProposalColumns:
        """Return everything, when all pieces have been added, or raise the first error."""
        self.check()
        return self._columns

    @override
    def _place(self, piece: JsonPiece, index: int) -> str:
        return f"{piece.path}: proposals[{self.count + index}]"

    @override
    def _take(self, entries: Sequence[_Result]) -> bool:
        self._columns.add_boxes(
            [entry.image_id for entry in entries],
            [entry.bbox for entry in entries],
            [entry.score for entry in entries],
        )
        return True

    @override
    def _parse(self, entry: Entry, place: str) -> _Result:
        for field, hint in (
            ("image_id", ""),
            ("score", "; proposals are boxes with scores from a detector"),
        ):
            if field not in entry:
                keys = ", ".join(entry) or "none"
                raise AnnotationError(f"{place} has no {field} (keys: {keys}){hint}.")
        image_id = image_id_of(entry["image_id"])
        if image_id is None:
            raise AnnotationError(
                f"{place}.image_id is {entry['image_id']!r}; wanted a whole number."
            )
        return _Result(
            image_id=image_id,
            bbox=cast("_Sides", four_numbers(entry.get("bbox"))),  # None for no box
            score=_score(entry["score"], f"{place}.score"),
        )


class GlipBoxes:
    """An object ``{image id: {"boxes": [[x1, y1, x2, y2], ...], "scores": [...]}}``.

    Further keys of an image (``labels``) are ignored.
    """

    def __init__(self) -> None:
        self.decoder = msgspec.json.Decoder(_ImageBoxes)
        self._columns = ProposalColumns("xyxy")
        self._known: set[int] = set()
        # Boxes not yet in the columns: arrays for each image alone would be slow.
        self._ids: list[int] = []
        self._boxes: list[tuple[float, ...] | None] = []
        self._scores: list[float] = []

    def add(self, piece: JsonPiece) -> None:
        """Add the boxes of one image, or raise an error that names it."""
        place = f"{piece.path}: image {piece.name!r}"
        image_id = image_id_of(piece.name or "")
        if image_id is None:
            raise AnnotationError(f"{place} is no image id; wanted a whole number, as text.")
        if image_id in self._known:
            raise AnnotationError(f"{place} is there twice. Put all its boxes under one key.")
        self._known.add(image_id)
        boxes: _Boxes
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
        self._ids += [image_id] * len(boxes)
        self._boxes += boxes
        self._scores += scores
        if len(self._ids) >= _BOXES_AT_ONCE:
            self.finish()

    def finish(self) -> ProposalColumns:
        """Return the boxes of all images so far."""
        self._columns.add_boxes(self._ids, self._boxes, self._scores)
        for pending in (self._ids, self._boxes, self._scores):
            pending.clear()
        return self._columns


def image_id_of(value: object) -> int | None:
    """Return the image id that a value stands for, or None."""
    return whole_number(value, at_least=_LOWEST_ID)


def _read_image(value: object, place: str) -> tuple[_Boxes, list[float]]:
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


def _score(value: object, place: str) -> float:
    hint = ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        if 0 <= value <= 1:
            return float(value)
        hint = " If it is a logit x, write 1 / (1 + exp(-x))."
    raise AnnotationError(f"{place} is {value!r:.60}; wanted a number from 0 to 1.{hint}")
