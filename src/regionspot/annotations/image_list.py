"""Keeps the images of a data set that a text file lists, such as those of a validation split.

Ids, keys and the vocabulary stay those of the whole data set, so the parts of a data set have no
image in common and the same classes.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from regionspot.annotations.columns import ImageColumns, RawAnnotations
from regionspot.annotations.report import few
from regionspot.core.errors import AnnotationError, MissingFileError
from regionspot.core.files import is_file


def with_listed_images(raw: RawAnnotations, path: Path) -> RawAnnotations:
    """Return the listed images of a data set, in its own order, and their annotations.

    Args:
        raw: A file's content.
        path: A UTF-8 text file with one file name per line, spelled as in the annotations.

    Raises:
        MissingFileError: There is no such file.
        AnnotationError: It lists no image, or one that the annotations do not list.
    """
    if not is_file(path):
        raise MissingFileError(f"no list of images at {path}. Correct --annotations.image_list.")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise AnnotationError(
            f"{path}: byte {error.start} is not UTF-8 text. Give a text file with one file name per"
            " line."
        ) from error
    wanted = dict.fromkeys(line for line in lines if line)
    names = list(raw.images.file_names)
    known = set(names)
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        found = (
            f"lists {len(unknown):,} images that the annotations do not list, such as"
            f" {unknown[0]!r}"
            if unknown
            else "lists no image"
        )
        raise AnnotationError(
            f"{path} {found}. Wanted file names such as {few([*map(repr, names)], 2)}, one per"
            " line."
        )
    rows = np.flatnonzero([name in wanted for name in names])
    # Where each image goes; the last entry is for annotations of unknown images, which stay so.
    new_rows = np.full(len(names) + 1, -2, np.int32)
    new_rows[rows] = np.arange(len(rows), dtype=np.int32)
    new_rows[-1] = -1
    image_rows = new_rows[raw.image_rows]
    kept = np.flatnonzero(image_rows != -2)
    note = f"{len(rows):,} of {len(names):,} images, those in {path.name}"
    return replace(
        raw,
        images=ImageColumns(
            ids=raw.images.ids[rows],
            keys=raw.images.keys.take(rows),
            file_names=raw.images.file_names.take(rows),
            sizes_hw=None if raw.images.sizes_hw is None else raw.images.sizes_hw[rows],
        ),
        image_rows=image_rows[kept],
        labels=raw.labels[kept],
        boxes_xyxy=raw.boxes_xyxy[kept],
        faults=raw.faults[kept],
        marks={reason: applies[kept] for reason, applies in raw.marks.items()},
        scores=None if raw.scores is None else raw.scores[kept],
        positions=kept if raw.positions is None else raw.positions[kept],
        prompts=None if raw.prompts is None else raw.prompts.take(kept),
        notes=(*raw.notes, note),
    )
