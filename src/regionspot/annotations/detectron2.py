"""Reads Detectron2's binary files of boxes, which are recognized by their first bytes.

There are two kinds. Precomputed proposals (``box_proposals.pkl``) are a pickle of ``{"boxes":
[(n, 4) array], "objectness_logits": [(n,) array], "ids": [image id], "bbox_mode": 0}`` with one
entry per image; older files say ``scores`` and ``indexes``. ``instances_predictions.pth`` of
``COCOEvaluator`` is a list of ``{"image_id": 42, "instances": [COCO results]}`` that ``torch.save``
has pickled. Unpickling either could run code, so they are parsed without it.
"""

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regionspot.annotations.json_entries import whole_number
from regionspot.annotations.numpy_pickle import PlainPickles, load_numpy_pickle
from regionspot.core.errors import AnnotationError, MissingFileError
from regionspot.core.shown import shown

CONVERT = "regionspot convert-proposals"
"""The command that converts these files."""

# How files of torch.save before version 1.6 begin: a pickled number that marks them.
_OLD_TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_ZIP = b"PK\x03\x04"
_PICKLES = (*(bytes([0x80, protocol]) for protocol in range(2, 6)), b"(dp", b"}q")
_PICKLE_IN_ZIP = "data.pkl"
# All that reading a damaged archive raises.
_BAD_ZIP = (
    *(zipfile.BadZipFile, ValueError, LookupError, RuntimeError, EOFError, OSError),
    *(ArithmeticError, struct.error, zlib.error),
)
_BOX_MODES = ("XYXY_ABS", "XYWH_ABS", "XYXY_REL", "XYWH_REL", "XYWHA_ABS")
_XYXY, _XYWH = 0, 1
_NESTED = (list, tuple, np.ndarray)
_MAX_SIDES = 5  # of a rotated box, which is refused later
_PLAIN = (int, float, str, type(None))
_RESULT_KEYS = ("image_id", "category_id", "bbox", "score")

_Results = list[dict[str, object]]
"""The COCO results of one image."""


class BinaryKind(StrEnum):
    """The kind of a binary file, in words."""

    PICKLE = "a pickle, as Detectron2 writes proposals"
    TORCH = "a file of torch.save, as Detectron2 writes predictions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Detections:
    """The boxes of a file."""

    images: Iterator[_Results]
    """The COCO results of one image after the other."""
    scores_were: str
    """What the scores in the file are, in words."""


def binary_kind(path: Path) -> BinaryKind | None:
    """Recognize a file by its first bytes; None if it is of neither kind, or missing."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        head = file.read(len(_OLD_TORCH))
    if head == _OLD_TORCH or (head.startswith(_ZIP) and _holds_pickle(path)):
        return BinaryKind.TORCH
    return BinaryKind.PICKLE if head.startswith(_PICKLES) else None


def _holds_pickle(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(_PICKLE_IN_ZIP) for name in archive.namelist())
    except _BAD_ZIP:  # truncated; its name may still say what it was
        return path.suffix in {".pth", ".pt"}


def read_detections(path: Path) -> Detections:
    """Read a file of Detectron2, without running any code in it.

    ``objectness_logits`` are logits. What older files call ``scores`` may also be probabilities:
    they are taken for these if all of them are from 0 to 1.

    Raises:
        MissingFileError: There is no such file.
        AnnotationError: It is of neither kind, damaged, asks for code to be run, or does not hold
            what its kind should. Some of this only shows while iterating over the images.
    """
    if not path.is_file():
        raise MissingFileError(f"{path} does not exist. Give a proposals file of Detectron2.")
    kind = binary_kind(path)
    if kind is BinaryKind.PICKLE:
        return _read_proposals(path)
    if kind is BinaryKind.TORCH:
        return Detections(images=_read_predictions(path), scores_were="probabilities")
    raise AnnotationError(
        f"{path} is neither a pickle nor a file of torch.save; wanted Detectron2's proposals (.pkl)"
        " or its instances_predictions.pth. Proposals in JSON need no conversion."
    )


def _read_proposals(path: Path) -> Detections:
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
    mode = _box_mode(content, path)
    are_logits = scores_key == "objectness_logits" or any(
        ((s < 0) | (s > 1)).any() for s in raw_scores
    )

    def images() -> Iterator[_Results]:
        for number, (image_id, sides, raw) in enumerate(zip(ids, boxes, raw_scores, strict=True)):
            place = f"{path}: image {number} (id {shown(image_id, 40)})"
            yield _results(image_id, sides, raw, mode=mode, are_logits=are_logits, place=place)

    return Detections(images=images(), scores_were="logits" if are_logits else "probabilities")


def _results(
    image_id: object,
    boxes: object,
    raw_scores: NDArray[np.float64],
    *,
    mode: int,
    are_logits: bool,
    place: str,
) -> _Results:
    """Return the COCO results of an image, in descending order of score before rounding."""
    sides = _numbers(boxes, f"{place}: boxes")
    if sides.size == 0:
        sides = sides.reshape(0, 4)
    if sides.shape != (len(raw_scores), 4):
        raise AnnotationError(
            f"{place} has boxes of shape {sides.shape} and {len(raw_scores)} scores; wanted (n, 4)"
            " and n."
        )
    number = whole_number(
        image_id.item() if isinstance(image_id, np.generic) else image_id, at_least=-(2**63)
    )
    if number is None:
        raise AnnotationError(f"{place}: the id is no whole number, as image ids are in COCO.")
    if mode == _XYXY:
        sides = np.concatenate([sides[:, :2], sides[:, 2:] - sides[:, :2]], axis=1)
    scores = np.exp(-np.logaddexp(0, -raw_scores)) if are_logits else raw_scores
    return [
        {"image_id": number, "bbox": sides[row].tolist(), "score": float(scores[row])}
        for row in np.argsort(-raw_scores, kind="stable")
    ]


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
    """Refuse lists nested deeper than boxes, and references to the same numbers over and over."""
    left = path.stat().st_size  # each number takes at least a byte
    for key, values in lists.items():
        for number, value in enumerate(values):
            for row in value if isinstance(value, list | tuple) else [value]:
                parts = row if isinstance(row, list | tuple) else ()
                if any(isinstance(x, _NESTED) for x in parts):
                    place = f"{path}: {key}[{number}]"
                    raise AnnotationError(f"{place} is {shown(value)}; wanted an array of numbers.")
                left -= max(row.size if isinstance(row, np.ndarray) else len(parts), 1)
            if left < 0:
                raise AnnotationError(
                    f"{path} refers to more numbers than it has bytes: to the same ones again and"
                    " again. Write it again, with separate boxes and scores for every image."
                )


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


def _read_saved(path: Path) -> object:
    """Return what ``torch.save`` wrote, if it consists of plain values."""
    with path.open("rb") as file:
        num_bytes = path.stat().st_size
        if file.read(len(_OLD_TORCH)) == _OLD_TORCH:
            file.seek(0)
            pickles = PlainPickles(file, num_bytes=num_bytes, path=path)
            # A number that marks the format, its version, sizes of C types; then the value.
            return [pickles.load() for _ in range(4)][-1]
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(_PICKLE_IN_ZIP)]
            info = archive.getinfo(names[0])
            # torch does not compress; a compressed file could be made to fill the memory.
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > num_bytes:
                raise AnnotationError(
                    f"{path} is packed; wanted instances_predictions.pth as torch.save writes it."
                )
            data = archive.read(info)
    except _BAD_ZIP as error:
        raise AnnotationError(
            f"{path} cannot be loaded ({type(error).__name__}: {error}). Is it cut off? Copy it"
            " again."
        ) from error
    return PlainPickles(io.BytesIO(data), num_bytes=len(data), path=path).load()


def _read_predictions(path: Path) -> Iterator[list[dict[str, object]]]:
    content = _read_saved(path)
    if not isinstance(content, list):
        raise AnnotationError(
            f'{path} holds a {type(content).__name__}; wanted a list of {{"image_id": 42,'
            ' "instances": [...]}, as a COCOEvaluator writes it.'
        )
    for number, image in enumerate(content):
        instances = image.get("instances") if isinstance(image, dict) else None
        if not isinstance(instances, list):
            raise AnnotationError(
                f"{path}: entry {number} is {shown(image)}; wanted a dict with a list instances."
            )
        yield [
            _result(instance, f"{path}: entry {number}: instances[{place}]")
            for place, instance in enumerate(instances)
        ]


def _result(instance: object, place: str) -> dict[str, object]:
    """Return the wanted keys of a COCO result."""
    if not isinstance(instance, dict):
        raise AnnotationError(f"{place} is {shown(instance)}; wanted a dict.")
    missing = [key for key in ("image_id", "bbox", "score") if key not in instance]
    if missing:
        keys = ", ".join(map(str, instance)) or "none"
        raise AnnotationError(f"{place} has no {' and no '.join(missing)} (keys: {keys:.200}).")
    for key in _RESULT_KEYS:
        value = instance.get(key)
        parts = value if key == "bbox" and isinstance(value, list | tuple) else [value]
        if len(parts) > _MAX_SIDES or not all(isinstance(x, _PLAIN) for x in parts):
            raise AnnotationError(f"{place}.{key} is {shown(value)}; wanted plain numbers.")
    return {key: instance[key] for key in _RESULT_KEYS if key in instance}
