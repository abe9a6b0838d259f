"""Predictions: what is scored, whoever made it, as columns and as an LVIS results file.

Scoring reads nothing but these, so that our head, CLIP on crops and somebody else's detector are
measured by the same code. Shape letter: N predictions.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self, cast

import numpy as np
from numpy.typing import NDArray

from regionspot.core.errors import AnnotationError, MissingFileError, ShapeError
from regionspot.core.files import open_atomic
from regionspot.core.json_text import load_json
from regionspot.core.shown import shown

_WRITE_ROWS = 65_536  # rows formatted at once: a file of millions of rows is never held as text


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """Scored boxes with a category each; row ``i`` of every column is prediction ``i``.

    Raises:
        ShapeError: The columns differ in length, or a value is not finite.
    """

    image_ids: NDArray[np.int64]
    """The data set's own image ids, (N,)."""
    category_ids: NDArray[np.int64]
    """The data set's own category ids, (N,)."""
    boxes_xywh: NDArray[np.float64]
    """Boxes as (x, y, width, height), (N, 4), pixels of the original image."""
    scores: NDArray[np.float64]
    """Confidences, (N,); only their order within a category matters to AP."""

    def __post_init__(self) -> None:
        count = len(self.image_ids)
        shapes = [self.image_ids.shape, self.category_ids.shape, self.scores.shape]
        if any(shape != (count,) for shape in shapes) or self.boxes_xywh.shape != (count, 4):
            raise ShapeError(
                f"predictions have columns of shapes {shapes} and boxes {self.boxes_xywh.shape};"
                " wanted (N,) each and boxes (N, 4), one row (x, y, width, height) a prediction."
            )
        if not (np.isfinite(self.scores).all() and np.isfinite(self.boxes_xywh).all()):
            raise ShapeError(
                "predictions hold scores or boxes that are not finite. Nearly always the model's"
                " scores are NaN: look for a loss of nan in the training log."
            )

    def __len__(self) -> int:
        return len(self.image_ids)

    @classmethod
    def empty(cls) -> Self:
        """Return predictions without rows."""
        return cls.concatenate(())

    @classmethod
    def concatenate(cls, parts: Iterable["Predictions"]) -> Self:
        """Join predictions in the order given; no parts give no rows."""
        found = list(parts)
        if not found:
            ids = np.zeros(0, np.int64)
            return cls(
                image_ids=ids, category_ids=ids, boxes_xywh=np.zeros((0, 4)), scores=np.zeros(0)
            )
        return cls(
            image_ids=np.concatenate([part.image_ids for part in found]),
            category_ids=np.concatenate([part.category_ids for part in found]),
            boxes_xywh=np.concatenate([part.boxes_xywh for part in found]),
            scores=np.concatenate([part.scores for part in found]),
        )

    def select(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> Self:
        """Return the rows chosen by a mask (N,) or by indices, in that order."""
        return type(self)(
            image_ids=self.image_ids[rows],
            category_ids=self.category_ids[rows],
            boxes_xywh=self.boxes_xywh[rows],
            scores=self.scores[rows],
        )

    def write_lvis_json(self, path: Path) -> None:
        """Write an LVIS (and COCO) results file; reading it back gives equal arrays.

        Numbers are written in full, so that a file scored elsewhere gives the same figures.
        """
        with open_atomic(path) as file:
            file.write(b"[")
            for start in range(0, len(self), _WRITE_ROWS):
                rows = self.select(np.arange(start, min(start + _WRITE_ROWS, len(self))))
                lines = ",\n".join(_json_lines(rows))
                file.write((",\n" if start else "\n").encode() + lines.encode())
            file.write(b"\n]\n")

    @classmethod
    def read_lvis_json(cls, path: Path) -> Self:
        """Read an LVIS (or COCO) results file with boxes; further keys are ignored.

        Raises:
            MissingFileError: There is no such file.
            AnnotationError: The file is not JSON, not a list, or an entry lacks a key.
        """
        if not path.is_file():
            raise MissingFileError(f"no results file at {path}.")
        try:
            # Every entry becomes a tuple while it is parsed: a sixth of the memory of dicts.
            rows = load_json(path.read_bytes(), object_hook=_row_of)
        except ValueError as error:
            raise AnnotationError(f"{path} is not JSON ({error}); is it cut off?") from error
        except _NotAResultError as error:
            raise AnnotationError(
                f"{path} is not a file of box results: {error}. Wanted a JSON list of"
                ' {"image_id": 1, "category_id": 2, "bbox": [x, y, width, height], "score": 0.5}.'
            ) from error
        if not isinstance(rows, list) or any(not isinstance(row, tuple) for row in rows):
            raise AnnotationError(
                f"{path} holds no list of results. Wanted the LVIS results format: a JSON list of"
                ' {"image_id": 1, "category_id": 2, "bbox": [x, y, width, height], "score": 0.5}.'
            )
        try:
            return cls._from_rows(cast("list[tuple[float, ...]]", rows))
        except OverflowError as error:
            raise AnnotationError(
                f"{path} holds a number that cannot be: {error}. Wanted boxes in pixels, and ids"
                " of images and categories as in the ground truth."
            ) from error

    @classmethod
    def _from_rows(cls, rows: list[tuple[float, ...]]) -> Self:
        if not rows:
            return cls.empty()
        return cls(
            image_ids=_ids([row[0] for row in rows]),
            category_ids=_ids([row[1] for row in rows]),
            boxes_xywh=np.array([row[2:6] for row in rows], np.float64).reshape(-1, 4),
            scores=np.array([row[6] for row in rows], np.float64),
        )


def _ids(values: list[float]) -> NDArray[np.int64]:
    found = np.array(values)
    if found.dtype.kind not in "iuf":  # numbers of more than 64 bits
        raise OverflowError(f"the id {shown(max(values, key=abs))}")
    with np.errstate(invalid="ignore"):
        ids = found.astype(np.int64)
    if not (ids == found).all():
        raise OverflowError(f"the id {shown(found[ids != found][0].item())} is no whole one")
    return ids


class _NotAResultError(Exception):
    """An entry of a results file lacks what a box result needs."""


def _row_of(entry: dict[str, object]) -> tuple[float, ...] | dict[str, object]:
    """Turn one parsed JSON object into a row; nested objects (an RLE mask) stay as they are."""
    if "counts" in entry:
        return entry
    missing = [key for key in ("image_id", "category_id", "bbox", "score") if key not in entry]
    if missing:
        raise _NotAResultError(f"an entry has the keys {sorted(entry)} and lacks {missing}")
    box = entry["bbox"]
    if not isinstance(box, list) or len(box) != 4:
        raise _NotAResultError(f"an entry's bbox is {shown(box)}, not four numbers")
    numbers = (entry["image_id"], entry["category_id"], *box, entry["score"])
    if any(not isinstance(number, int | float) for number in numbers):
        raise _NotAResultError(f"an entry holds something that is not a number: {shown(numbers)}")
    return cast("tuple[float, ...]", numbers)


def _json_lines(rows: Predictions) -> Iterator[str]:
    columns = zip(
        rows.image_ids.tolist(),
        rows.category_ids.tolist(),
        rows.boxes_xywh.tolist(),
        rows.scores.tolist(),
        strict=True,
    )
    for image_id, category_id, box, score in columns:
        yield (
            f'{{"image_id":{image_id},"category_id":{category_id},'
            f'"bbox":[{box[0]!r},{box[1]!r},{box[2]!r},{box[3]!r}],"score":{score!r}}}'
        )
