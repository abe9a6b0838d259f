"""Reads COCO ground truth and the formats that share its layout.

The layout is a JSON object of three lists: images, annotations, categories. Many tools write it, so
it is also the usual format of custom data.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regionspot.annotations.assembly import distinct_images, rows_of, synonyms_of, vocabulary_of
from regionspot.annotations.box_checks import DropReasons, first_reasons
from regionspot.annotations.coco_entries import (
    AnnotationEntries,
    CategoryEntries,
    FileNameOf,
    ImageEntries,
)
from regionspot.annotations.columns import ImageColumns, RawAnnotations, TextColumn
from regionspot.annotations.detect_format import (
    WANTED_LISTS,
    Outline,
    describe,
    recognize_format,
)
from regionspot.annotations.json_entries import Entries, entry_text, read_lists
from regionspot.annotations.json_lists import PIECE_BYTES, JsonFile
from regionspot.annotations.options import Source
from regionspot.annotations.region_prompts import Prompt
from regionspot.annotations.report import Reason
from regionspot.core.errors import AnnotationError


def read_coco(source: Source) -> RawAnnotations:
    """Read a COCO file; an image's file is its ``file_name``."""
    return read_coco_json(source.path, format_name="coco", prompt=source.options.prompt)


def read_coco_json(
    path: Path,
    *,
    format_name: str,
    file_name_of: FileNameOf = lambda file_name, _: file_name,
    also: Iterable[str] = (),
    prompt: Prompt | None = None,
    piece_bytes: int = PIECE_BYTES,
    beside: Sequence[Entries[Any]] = (),
) -> RawAnnotations:
    """Read a COCO-like file, whatever the order of its lists, without holding it in memory.

    Args:
        path: The file.
        format_name: The format that was asked for, which the file must be recognized to be in.
        file_name_of: Returns the path of an image relative to the images folder; its ``file_name``
            by default.
        also: Further formats that the file may be recognized to be in.
        prompt: What SAM is prompted with; its box if None.
        piece_bytes: Bytes that are decoded at once.
        beside: Further readers of the list ``images``; errors in it are left to the caller.

    Raises:
        MissingFileError: There is no such file.
        AnnotationError: The file is damaged or in another format, a list is missing, or an entry
            is invalid; names list and place.
        VocabularyError: A class name is empty or occurs twice.
    """
    images, categories = ImageEntries(file_name_of), CategoryEntries()
    annotations = AnnotationEntries(prompt or "box")
    file = JsonFile(path, piece_bytes=piece_bytes)
    readers: dict[str | None, Sequence[Entries[Any]]] = {
        "images": [images, *beside],
        "annotations": [annotations],
        "categories": [categories],
    }
    _check_format(path, read_lists(file, readers), format_name, {format_name, *also})
    images.check()
    categories.check()
    annotations.check()
    numbers = images.columns.pop("ids_and_sizes_hw")
    listed = ImageColumns(
        ids=numbers[:, 0].copy(),
        # Keys are as long as COCO's file names.
        keys=TextColumn.from_texts(f"{number:012d}" for number in numbers[:, 0].tolist()),
        file_names=images.file_names,
        sizes_hw=numbers[:, 1:].copy(),
    )
    distinct, num_repeated = distinct_images(listed, path)
    vocabulary, category_ids = vocabulary_of(categories.ids, categories.names, path)
    columns = annotations.columns
    boxes_xyxy = columns.pop("boxes_xyxy")  # first, while the other columns are in pieces
    image_rows = rows_of(columns.pop("image_ids"), distinct.ids)
    mask_sizes_hw = columns.pop("mask_sizes_hw")
    return RawAnnotations(
        images=distinct,
        num_repeated_images=num_repeated,
        vocabulary=vocabulary,
        synonyms=synonyms_of(vocabulary, categories.names, categories.synonyms),
        category_ids=category_ids,
        image_rows=image_rows,
        labels=rows_of(columns.pop("category_ids"), np.array(category_ids, np.int64)),
        boxes_xyxy=boxes_xyxy,
        faults=_with_mask_faults(columns.pop("faults"), mask_sizes_hw, distinct, image_rows),
        marks={Reason.CROWD: columns.pop("is_crowd")},
        prompts=annotations.prompts(),
        sha256s=(file.sha256,),
        show=partial(entry_text, path, "annotations"),
    )


def _with_mask_faults(
    faults: DropReasons,
    found_hw: NDArray[np.int64],
    images: ImageColumns,
    image_rows: NDArray[np.int32],
) -> DropReasons:
    """Add the faults of masks that state another size than that of their image."""
    if not len(found_hw) or images.sizes_hw is None:
        return faults
    is_other = (found_hw[:, 0] >= 0) & (found_hw != images.sizes_hw[image_rows]).any(axis=1)
    return first_reasons(faults, {Reason.BAD_MASK: is_other})


def _check_format(path: Path, outline: Outline, format_name: str, wanted: set[str]) -> None:
    found = recognize_format(outline)
    if found is not None and found not in wanted:
        hint = " (no category has a frequency)" if (found, format_name) == ("coco", "lvis") else ""
        raise AnnotationError(
            f"{path} is {describe(outline)}{hint}, but --annotations.format is {format_name}. Type"
            f" --annotations.format {found}."
        )
    for name in WANTED_LISTS:
        if not outline.has_list(name):
            raise AnnotationError(
                f"{path} is {describe(outline)}, which has no list {name!r}; --annotations.format"
                f" {format_name} needs the lists {', '.join(WANTED_LISTS)}. Set --annotations.path"
                " to the ground-truth file."
            )
