"""The images of ``regionspot recognize``, and the boxes of each from a COCO or CSV file."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from regionspot.annotations import CsvTable, images_below, read_annotations
from regionspot.core.errors import AnnotationError, ConfigError, MissingFileError

_logger = logging.getLogger(__name__)

_COLUMNS = ("image", "x1", "y1", "x2", "y2")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageJob:
    """An image whose regions are to be named; without boxes and points, SAM proposes them."""

    path: Path
    """The image file."""
    name: str
    """Its path below the folder that was given, or its name."""
    boxes_xyxy: NDArray[np.float32] | None = None
    """Its boxes in pixels, (R, 4)."""
    points_xy: NDArray[np.float32] | None = None
    """One point of each region in pixels, (R, 2)."""


def list_images(paths: Sequence[str]) -> list[ImageJob]:
    """List image files, and those in folders and the folders below them.

    Raises:
        MissingFileError: There is nothing at a path, or no image in a folder.
        ConfigError: An image is given twice.
    """
    jobs: list[ImageJob] = []
    for text in paths:
        path = Path(text)
        if path.is_dir():
            below = [
                ImageJob(path=file, name=file.relative_to(path).as_posix())
                for file in images_below(path)
            ]
            if not below:
                raise MissingFileError(f"the folder {path} has no image in it.")
            jobs += below
        elif path.is_file():
            jobs.append(ImageJob(path=path, name=path.name))
        else:
            raise MissingFileError(f"no image file or folder at {path}: check the path.")
    first: dict[str, Path] = {}
    for job in jobs:
        other = first.setdefault(job.name, job.path)
        if other is not job.path:
            raise ConfigError(
                f"two images are named {job.name}: {other} and {job.path}. Give the folder that"
                " contains both, or one image only."
            )
    return jobs


def with_boxes(
    jobs: Iterable[ImageJob], boxes: Mapping[str, NDArray[np.float32]]
) -> list[ImageJob]:
    """Give each image its boxes, whose images are named by their path or the end of it.

    Raises:
        AnnotationError: No box is of any of the images.
    """
    found = {job: _boxes_name(job.path, boxes) for job in jobs}
    without = [job.path for job, name in found.items() if name is None]
    unused = sorted(boxes.keys() - set(found.values()))
    if len(without) == len(found):
        raise AnnotationError(
            f"the boxes are of other images: of {next(iter(boxes), 'none')}, for instance, and not"
            f" of {without[0]}. Name images in the file by their path below a folder given here."
        )
    if without:
        _logger.warning(
            "%d of %d images have no boxes, such as %s", len(without), len(found), without[0]
        )
    if unused:
        _logger.warning(
            "the boxes of %d of %d images are not used, such as those of %s",
            *(len(unused), len(boxes), unused[0]),
        )
    none = np.zeros((0, 4), np.float32)
    return [
        replace(job, boxes_xyxy=none if name is None else boxes[name])
        for job, name in found.items()
    ]


def _boxes_name(path: Path, boxes: Mapping[str, object]) -> str | None:
    parts = path.parts
    ends = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((end for end in ends if end in boxes), None)


def read_boxes(path: Path, kind: str) -> dict[str, NDArray[np.float32]]:
    """Read the boxes of a file by the path of their image.

    Args:
        path: The file.
        kind: ``coco``, or ``csv`` for a header with ``image,x1,y1,x2,y2``.

    Raises:
        MissingFileError: There is no such file.
        AnnotationError: The file has another format or is damaged.
    """
    if not path.is_file():
        raise MissingFileError(f"no file at {path}: check --{kind}.")
    try:
        return _read_coco(path) if kind == "coco" else _read_csv(path)
    except AnnotationError as error:
        raise AnnotationError(str(error).replace("--annotations.path", f"--{kind}")) from error


def _read_coco(path: Path) -> dict[str, NDArray[np.float32]]:
    data = read_annotations("coco", path, None)
    if data.report.num_dropped:
        _logger.warning("%s: %s", path, "; ".join(data.report.lines()))
    return {record.file_name: record.boxes_xyxy for record in data.records}


def _read_csv(path: Path) -> dict[str, NDArray[np.float32]]:
    rows: dict[str, list[list[float]]] = {}
    for block in CsvTable(path, _COLUMNS).blocks():
        sides = np.stack([block.numbers(name) for name in _COLUMNS[1:]], axis=1)
        names = block.columns["image"].values()
        if not all(map(_is_name, names)):
            raise block.wrong_value("image", _is_name, "the path of an image, in UTF-8")
        for name, box in zip(names, sides.tolist(), strict=True):
            rows.setdefault(str(PurePosixPath(name.decode())), []).append(box)
    return {image: np.array(boxes, np.float32) for image, boxes in rows.items()}


def _is_name(value: bytes) -> bool:
    try:
        return bool(value.decode())
    except UnicodeDecodeError:
        return False
