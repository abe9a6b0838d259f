"""Detectron2's own files of boxes, recognised by their first bytes, as COCO results.

Two kinds: the pickle of precomputed proposals (see `regionspot.annotations.detectron2_pickle`) and
``instances_predictions.pth`` of its ``COCOEvaluator``, a list of ``{"image_id": 42, "instances":
[COCO results]}``, which ``torch.save`` pickles. Neither is JSON, and both could run code if they
were read carelessly.
"""

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from regionspot.annotations.detectron2_pickle import read_pickled_proposals
from regionspot.annotations.numpy_pickle import PlainPickles
from regionspot.core.errors import AnnotationError, MissingFileError
from regionspot.core.shown import shown

CONVERT = "regionspot convert-proposals"
"""The command that converts these files."""

# How files of torch.save from before version 1.6 begin: a pickled number that marks them.
_OLD_TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_ZIP = b"PK\x03\x04"
_PICKLES = (*(bytes([0x80, protocol]) for protocol in range(2, 6)), b"(dp", b"}q")
_PICKLE_IN_ZIP = "data.pkl"
# All that a damaged archive ends in.
_BAD_ZIP = (
    *(zipfile.BadZipFile, ValueError, LookupError, RuntimeError, EOFError, OSError),
    *(ArithmeticError, struct.error, zlib.error),
)
_MAX_SIDES = 5  # of a rotated box, which is told from an upright one later
_PLAIN = (int, float, str, type(None))
_RESULT_KEYS = ("image_id", "category_id", "bbox", "score")


class BinaryKind(StrEnum):
    """What a file is that is not JSON, in words."""

    PICKLE = "a pickle, as Detectron2 writes proposals"
    TORCH = "a file of torch.save, as Detectron2 writes predictions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Detections:
    """The boxes of a file."""

    images: Iterator[list[dict[str, object]]]
    """The COCO results of one image after the other."""
    scores_were: str
    """What the file has as scores, in words."""


def binary_kind(path: Path) -> BinaryKind | None:
    """Recognise a file by its first bytes; None if it is of neither kind, or not there."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        head = file.read(len(_OLD_TORCH))
    if head == _OLD_TORCH or (head.startswith(_ZIP) and _holds_pickle(path)):
        return BinaryKind.TORCH
    return BinaryKind.PICKLE if head.startswith(_PICKLES) else None


def read_detections(path: Path) -> Detections:
    """Read a file of Detectron2. Nothing that may be hidden in it is run.

    Raises:
        MissingFileError: There is no such file.
        AnnotationError: It is of neither kind, damaged, asks for code to be run, or does not hold
            what its kind should. Some of it only shows on the way through the images.
    """
    if not path.is_file():
        raise MissingFileError(f"{path} does not exist. Give a proposals file of Detectron2.")
    kind = binary_kind(path)
    if kind is BinaryKind.PICKLE:
        proposals = read_pickled_proposals(path)
        scores_were = "logits" if proposals.are_logits else "probabilities"
        return Detections(images=proposals.images(), scores_were=scores_were)
    if kind is BinaryKind.TORCH:
        return Detections(images=_read_predictions(path), scores_were="probabilities")
    raise AnnotationError(
        f"{path} is neither a pickle nor a file of torch.save; wanted Detectron2's proposals (.pkl)"
        " or its instances_predictions.pth. Proposals in JSON need no conversion."
    )


def _holds_pickle(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(_PICKLE_IN_ZIP) for name in archive.namelist())
    except _BAD_ZIP:  # cut off; by its name it may still be told what it was
        return path.suffix in {".pth", ".pt"}


def _read_saved(path: Path) -> object:
    """Return what ``torch.save`` wrote, if it is of plain values."""
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
            # torch packs nothing; a packed file could be made to fill the memory.
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
    """Return what is of interest of one of COCO's results."""
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
