"""Detectron2's pickle of precomputed proposals (``box_proposals.pkl``).

It holds ``{"boxes": [(n, 4) array], "objectness_logits": [(n,) array], "ids": [image id],
"bbox_mode": 0}``, with an entry for each image; older files say ``scores`` and ``indexes``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regionspot.annotations.numpy_pickle import load_numpy_pickle
from regionspot.core.errors import AnnotationError
from regionspot.core.shown import shown

_BOX_MODES = ("XYXY_ABS", "XYWH_ABS", "XYXY_REL", "XYWH_REL", "XYWHA_ABS")
_XYXY, _XYWH = 0, 1
_NESTED = (list, tuple, np.ndarray)


@dataclass(frozen=True, slots=True, kw_only=True)
class PickledProposals:
    """The content of a file; row ``i`` of each list is of the ``i``-th image."""

    path: Path
    ids: Sequence[object]
    boxes: Sequence[object]
    raw_scores: Sequence[NDArray[np.float64]]
    """Logits or probabilities, (n,) each."""
    mode: int
    """Detectron2's ``BoxMode``: 0 for corners, 1 for corner and size, both in pixels."""
    are_logits: bool

    def images(self) -> Iterator[list[dict[str, object]]]:
        """Yield the COCO results of each image, the best first, before scores are rounded.

        Raises:
            AnnotationError: Boxes, scores and id of an image do not fit; says which.
        """
        for number, (image_id, boxes) in enumerate(zip(self.ids, self.boxes, strict=True)):
            place = f"{self.path}: image {number} (id {shown(image_id, 40)})"
            raw_scores = self.raw_scores[number]
            sides = _numbers(boxes, f"{place}: boxes")
            if sides.size == 0:
                sides = sides.reshape(0, 4)
            if sides.shape != (len(raw_scores), 4):
                raise AnnotationError(
                    f"{place} has boxes of shape {sides.shape} and {len(raw_scores)} scores; wanted"
                    " (n, 4) and n."
                )
            if self.mode == _XYXY:
                sides = np.concatenate([sides[:, :2], sides[:, 2:] - sides[:, :2]], axis=1)
            scores = np.exp(-np.logaddexp(0, -raw_scores)) if self.are_logits else raw_scores
            number_of_image = _image_id(image_id, place)
            yield [
                {"image_id": number_of_image, "bbox": box, "score": score}
                for box, score in (
                    (sides[row].tolist(), float(scores[row]))
                    for row in np.argsort(-raw_scores, kind="stable")
                )
            ]


def read_pickled_proposals(path: Path) -> PickledProposals:
    """Read a file.

    ``objectness_logits`` are logits. What older files call ``scores`` has been probabilities as
    well: they are taken for these if all of them are from 0 to 1.

    Raises:
        AnnotationError: The file is damaged, asks for code to be run, or holds something else.
    """
    content = load_numpy_pickle(path)
    if not isinstance(content, dict):
        raise AnnotationError(
            f"{path} holds a {type(content).__name__}; wanted a dict with the keys boxes,"
            " objectness_logits, ids and bbox_mode."
        )
    ids_key, ids = _list(content, ("ids", "indexes"), path)
    boxes_key, boxes = _list(content, ("boxes",), path)
    scores_key, scores = _list(content, ("objectness_logits", "scores"), path)
    if not len(ids) == len(boxes) == len(scores):
        raise AnnotationError(
            f"{path} has {len(ids)} {ids_key}, {len(boxes)} {boxes_key} and {len(scores)}"
            f" {scores_key}; wanted one of each for every image."
        )
    _check_amount({boxes_key: boxes, scores_key: scores}, path)
    raw_scores = []
    for number, value in enumerate(scores):
        of_image = _numbers(value, f"{path}: {scores_key}[{number}]")
        if of_image.ndim != 1:
            raise AnnotationError(
                f"{path}: {scores_key}[{number}] has the shape {of_image.shape}; wanted (n,)."
            )
        raw_scores.append(of_image)
    return PickledProposals(
        path=path,
        ids=ids,
        boxes=boxes,
        raw_scores=raw_scores,
        mode=_box_mode(content, path),
        are_logits=scores_key == "objectness_logits"
        or any(((s < 0) | (s > 1)).any() for s in raw_scores),
    )


def _list(
    content: Mapping[object, object], keys: Sequence[str], path: Path
) -> tuple[str, Sequence[object]]:
    for key in keys:
        value = content.get(key)
        if isinstance(value, np.ndarray):
            value = list(value)
        if isinstance(value, list | tuple):
            return key, value
    found = ", ".join(map(str, content)) or "none"
    raise AnnotationError(f"{path} has no list {' or '.join(keys)} (keys: {found:.200}).")


def _check_amount(lists: Mapping[str, Sequence[object]], path: Path) -> None:
    """Refuse lists deeper than boxes are, and the same numbers again and again."""
    left = path.stat().st_size  # each number takes a byte at least
    for key, values in lists.items():
        for number, value in enumerate(values):
            rows = value if isinstance(value, list | tuple) else [value]
            for row in rows:
                if isinstance(row, list | tuple) and any(isinstance(x, _NESTED) for x in row):
                    place = f"{path}: {key}[{number}]"
                    raise AnnotationError(f"{place} is {shown(value)}; wanted an array of numbers.")
                left -= max(row.size if isinstance(row, np.ndarray) else _length(row), 1)
            if left < 0:
                raise AnnotationError(
                    f"{path} refers to more numbers than it has bytes: to the same ones again and"
                    " again. Write it again, with boxes and scores of its own for every image."
                )


def _length(value: object) -> int:
    return len(value) if isinstance(value, list | tuple) else 1


def _box_mode(content: Mapping[object, object], path: Path) -> int:
    mode = content.get("bbox_mode", _XYXY)
    if isinstance(mode, np.generic):
        mode = mode.item()
    if isinstance(mode, int) and mode in {_XYXY, _XYWH}:
        return mode
    name = ""
    if isinstance(mode, int) and 0 <= mode < len(_BOX_MODES):
        name = f" ({_BOX_MODES[mode]})"
    raise AnnotationError(
        f"{path}: bbox_mode is {shown(mode, 40)}{name}; wanted 0 (XYXY_ABS) or 1 (XYWH_ABS),"
        " upright boxes in pixels."
    )


def _numbers(value: object, place: str) -> NDArray[np.float64]:
    """Return finite numbers as an array."""
    try:
        numbers = np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise AnnotationError(f"{place} is {shown(value)}; wanted an array of numbers.") from error
    if not np.isfinite(numbers).all():
        raise AnnotationError(f"{place} holds NaN or infinity; wanted finite numbers.")
    return numbers


def _image_id(value: object, place: str) -> int:
    if isinstance(value, np.generic):
        value = value.item()
    try:
        number = int(value) if isinstance(value, int | str) else None
    except ValueError:
        number = None
    if number is None:
        raise AnnotationError(f"{place}: the id is no whole number, as image ids are in COCO.")
    return number
