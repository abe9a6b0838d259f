"""Predictions: what is scored, whoever made it, as columns and as an LVIS results file.

Scoring reads nothing but these, so that our head, CLIP on crops and somebody else's detector are
measured by the same code. Shape letter: N predictions.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from regionspot.core.errors import ShapeError
from regionspot.core.files import open_atomic
from regionspot.scoring.results_file import read_result_columns

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
        image_ids, category_ids, boxes_xywh, scores = read_result_columns(path)
        return cls(
            image_ids=image_ids, category_ids=category_ids, boxes_xywh=boxes_xywh, scores=scores
        )

    def num_repeated(self) -> int:
        """Return how many rows are equal to an earlier one in all columns."""
        table = np.column_stack(
            [self.image_ids, self.category_ids, self.boxes_xywh.view(np.int64).reshape(-1, 4)]
        )
        table = np.column_stack([table, self.scores.view(np.int64)])
        return len(table) - len(np.unique(table, axis=0))


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
