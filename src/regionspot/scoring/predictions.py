"""Predictions: what is scored, whoever made it, as columns and as an LVIS results file.

Scoring reads nothing but these, so that our head, CLIP on crops and somebody else's detector are
measured by the same code. Shape letter: N predictions.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from regionspot.core.errors import ShapeError
from regionspot.core.files import open_atomic
from regionspot.core.rle_masks import RleMasks
from regionspot.scoring.ap_scores import IouType
from regionspot.scoring.results_file import ResultsFile, read_results_file

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
    masks: RleMasks | None = None
    """Masks, N in all, for mask AP; None without."""

    def __post_init__(self) -> None:
        count = len(self.image_ids)
        shapes = [self.image_ids.shape, self.category_ids.shape, self.scores.shape]
        if any(shape != (count,) for shape in shapes) or self.boxes_xywh.shape != (count, 4):
            raise ShapeError(
                f"predictions have columns of shapes {shapes} and boxes {self.boxes_xywh.shape};"
                " wanted (N,) each and boxes (N, 4), one row (x, y, width, height) a prediction."
            )
        if self.masks is not None and len(self.masks) != count:
            raise ShapeError(f"predictions have {count} rows and {len(self.masks)} masks.")
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
        """Join predictions in the order given; no rows have no masks.

        Raises:
            ShapeError: Only some have masks.
        """
        found = [part for part in parts if len(part)]
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
            masks=_joined_masks(found),
        )

    def select(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> Self:
        """Return the rows chosen by a mask (N,) or by indices, in that order."""
        return type(self)(
            image_ids=self.image_ids[rows],
            category_ids=self.category_ids[rows],
            boxes_xywh=self.boxes_xywh[rows],
            scores=self.scores[rows],
            masks=None if self.masks is None else self.masks[rows],
        )

    def write_lvis_json(self, path: Path) -> None:
        """Write an LVIS (and COCO) results file; reading it back gives equal arrays.

        Numbers are written in full, so that a file scored elsewhere gives the same figures. With
        masks, ``segmentation`` is written and ``bbox`` is not: `lvis` and `pycocotools` would take
        the size of a prediction from its box.
        """
        with open_atomic(path) as file:
            file.write(b"[")
            for start in range(0, len(self), _WRITE_ROWS):
                rows = self.select(np.arange(start, min(start + _WRITE_ROWS, len(self))))
                lines = ",\n".join(_json_lines(rows))
                file.write((",\n" if start else "\n").encode() + lines.encode())
            file.write(b"\n]\n")

    @classmethod
    def of_results(cls, found: ResultsFile) -> Self:
        """Take the entries of a results file."""
        return cls(
            image_ids=found.image_ids,
            category_ids=found.category_ids,
            boxes_xywh=found.boxes_xywh,
            scores=found.scores,
            masks=found.masks,
        )

    @classmethod
    def read_lvis_json(cls, path: Path, *, iou_type: IouType = "bbox") -> Self:
        """Read an LVIS (and COCO) results file; further keys are ignored.

        Args:
            path: The file.
            iou_type: Whether to read boxes or masks.

        Raises:
            MissingFileError: There is no such file.
            AnnotationError: The file is not JSON, holds no list of results, or an entry lacks a key
                or has a mask that is none.
        """
        return cls.of_results(read_results_file(path, iou_type=iou_type))

    def num_repeated(self) -> int:
        """Return how many rows are equal to an earlier one in all columns."""
        table = np.column_stack(
            [self.image_ids, self.category_ids, self.boxes_xywh.view(np.int64).reshape(-1, 4)]
        )
        table = np.column_stack([table, self.scores.view(np.int64)])
        if self.masks is not None:
            numbers: dict[bytes, int] = {}
            found = [numbers.setdefault(one, len(numbers)) for one in self.masks.counts]
            table = np.column_stack([table, found])
        return len(table) - len(np.unique(table, axis=0))


def _json_lines(rows: Predictions) -> Iterator[str]:
    columns = zip(
        rows.image_ids.tolist(),
        rows.category_ids.tolist(),
        _json_regions(rows),
        rows.scores.tolist(),
        strict=True,
    )
    for image_id, category_id, region, score in columns:
        yield (f'{{"image_id":{image_id},"category_id":{category_id},{region},"score":{score!r}}}')


def _json_regions(rows: Predictions) -> Iterator[str]:
    if rows.masks is None:
        for x, y, width, height in rows.boxes_xywh.tolist():
            yield f'"bbox":[{x!r},{y!r},{width!r},{height!r}]'
        return
    for mask in rows.masks.to_coco():
        counts = json.dumps(mask["counts"].decode("ascii"))
        yield f'"segmentation":{{"size":{mask["size"]},"counts":{counts}}}'


def _joined_masks(parts: Sequence[Predictions]) -> RleMasks | None:
    masks = [part.masks for part in parts if part.masks is not None]
    if masks and len(masks) < len(parts):
        raise ShapeError("some predictions to join have masks and some have none.")
    return RleMasks.concatenate(masks) if masks else None
