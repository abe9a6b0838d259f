"""Reads COCO ground truth and the formats that share its layout: LVIS and V3Det.

The layout is a JSON object of three lists: images, annotations, categories. Many tools write it, so
it is also the usual format of people's own data.
"""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regionspot.annotations.assembly import distinct_images, rows_of, synonyms_of, vocabulary_of
from regionspot.annotations.box_checks import DropReasons, first_reasons
from regionspot.annotations.coco_entries import (
    AnnotationColumns,
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
from regionspot.annotations.json_entries import (
    AnyEntries,
    Entries,
    OtherEntries,
    SideBySide,
    entry_text,
    read_lists,
)
from regionspot.annotations.json_lists import PIECE_BYTES, JsonFile
from regionspot.annotations.lvis_entries import INSTEAD, LvisImages
from regionspot.annotations.options import Source
from regionspot.annotations.region_prompts import Prompt
from regionspot.annotations.report import Reason
from regionspot.core.errors import AnnotationError


def read_coco_json(
    path: Path,
    *,
    format_name: str,
    file_name_of: FileNameOf,
    also: Iterable[str] = (),
    prompt: Prompt | None = None,
    piece_bytes: int = PIECE_BYTES,
    beside: Entries[Any] | None = None,
) -> RawAnnotations:
    """Read a COCO-like file, in any order of its lists, without holding it in memory.

    Args:
        path: The file.
        format_name: The format that was asked for, which the file must be recognised to be in.
        file_name_of: Gives the path of an image's file below the images folder.
        also: Further formats that the file may be recognised to be in.
        prompt: What of a region SAM is to be shown; its box if None.
        piece_bytes: Bytes that are decoded at once.
        beside: A further reader of the list ``images``; its complaint is its caller's.

    Raises:
        MissingFileError: There is no such file.
        AnnotationError: The file is damaged or in another format, a list is missing, or an entry
            lacks what it needs; names list and place.
        VocabularyError: A class name is empty or occurs twice.
    """
    reading = _Reading(path, file_name_of, prompt or "box", piece_bytes, beside)
    reading.read()
    _check_format(path, reading.outline, format_name, {format_name, *also})
    return reading.annotations()


class _Reading:
    """Reads the lists of one file."""

    def __init__(
        self,
        path: Path,
        file_name_of: FileNameOf,
        prompt: Prompt,
        piece_bytes: int,
        beside: Entries[Any] | None,
    ) -> None:
        self._path = path
        self._file_name_of = file_name_of
        self._file = JsonFile(path, piece_bytes=piece_bytes)
        self._images = ImageEntries(file_name_of)
        self._beside = beside
        self._prompt: Prompt = prompt
        self._annotations = AnnotationEntries(prompt)
        self._categories = CategoryEntries()

    def read(self) -> None:
        """Read the whole file; complaints about entries wait until its format is known."""
        self.outline = read_lists(self._file, self._begin)

    def _begin(self, name: str | None) -> AnyEntries:
        if name == "images":
            self._images = ImageEntries(self._file_name_of)
            return SideBySide(self._images, *([self._beside] if self._beside else []))
        if name == "annotations":
            self._annotations = AnnotationEntries(self._prompt)
            return self._annotations
        if name == "categories":
            self._categories = CategoryEntries()
            return self._categories
        return OtherEntries()

    def annotations(self) -> RawAnnotations:
        """Return the content, or raise the first complaint about an entry."""
        for entries in (self._images, self._categories, self._annotations):
            if entries.error is not None:
                raise entries.error
        numbers, file_names = self._images.numbers, self._images.file_names
        # Keys are as long as COCO's file names.
        keys = TextColumn.from_texts(f"{number:012d}" for number in numbers[:, 0].tolist())
        listed = ImageColumns(
            ids=numbers[:, 0].copy(),
            keys=keys,
            file_names=file_names,
            sizes_hw=numbers[:, 1:].copy(),
        )
        images, num_repeated = distinct_images(listed, self._path)
        vocabulary, category_ids = vocabulary_of(
            self._categories.ids, self._categories.names, self._path
        )
        columns = self._annotations.pop_columns()
        image_rows = rows_of(columns.image_ids, images.ids)
        return RawAnnotations(
            images=images,
            num_repeated_images=num_repeated,
            vocabulary=vocabulary,
            synonyms=synonyms_of(vocabulary, self._categories.names, self._categories.synonyms),
            category_ids=category_ids,
            image_rows=image_rows,
            labels=rows_of(columns.category_ids, np.array(category_ids, np.int64)),
            boxes_xyxy=columns.boxes_xyxy,
            faults=_with_mask_faults(columns, images, image_rows),
            marks={Reason.CROWD: columns.is_crowd},
            prompts=columns.prompts,
            sha256s=(self._file.sha256,),
            show=partial(entry_text, self._path, "annotations"),
        )


def _with_mask_faults(
    columns: AnnotationColumns, images: ImageColumns, image_rows: NDArray[np.int32]
) -> DropReasons:
    """Add the faults of masks that state another size than that of their image."""
    found_hw = columns.mask_sizes_hw
    if not len(found_hw) or images.sizes_hw is None:
        return columns.faults
    is_other = (found_hw[:, 0] >= 0) & (found_hw != images.sizes_hw[image_rows]).any(axis=1)
    return first_reasons(columns.faults, {Reason.BAD_MASK: is_other})


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


def read_coco(source: Source) -> RawAnnotations:
    """Read a COCO file; an image's file is its ``file_name``.

    Raises:
        MissingFileError: There is no such file.
        AnnotationError: The file is not COCO ground truth; says what it is and what to type.
        VocabularyError: A class name is empty or occurs twice.
    """
    return read_coco_json(
        source.path, format_name="coco", file_name_of=named_file, prompt=source.options.prompt
    )


def named_file(file_name: str | None, coco_url: str | None) -> str | None:  # noqa: ARG001
    """Return an image's ``file_name``."""
    return file_name


def read_lvis(source: Source) -> RawAnnotations:
    """Read an LVIS file.

    Version 0.5 names an image's file in ``file_name``. Version 1 does not: there the path is the
    end of ``coco_url``, folder and name, since LVIS splits are no COCO splits (its val has images
    of COCO's ``train2017``). The images folder is then the one that holds ``train2017`` and
    ``val2017``.

    Raises:
        MissingFileError: There is no such file.
        AnnotationError: The file is not LVIS ground truth; says what it is and what to type.
        VocabularyError: A class name is empty or occurs twice.
    """
    images = LvisImages()
    raw = read_coco_json(
        source.path,
        format_name="lvis",
        file_name_of=_file_name,
        prompt=source.options.prompt,
        beside=images,
    )
    if images.error is None:
        return raw
    # Training does without; whoever wants AP should know before the hours of caching.
    found = str(images.error).removesuffix(INSTEAD).rstrip(" .")
    note = f"evaluate.py and --val_annotations will refuse this file: {found}"
    return replace(raw, notes=(*raw.notes, note))


def _file_name(file_name: str | None, coco_url: str | None) -> str | None:
    if file_name is not None:
        return file_name
    return None if coco_url is None else "/".join(PurePosixPath(coco_url).parts[-2:])


def read_v3det(source: Source) -> RawAnnotations:
    """Read a V3Det file; an image's file is its ``file_name``, below the folder of ``images``.

    Files without the descriptions, which other tools write, are taken, too. In some copies two
    categories have one name; that is refused, since their labels could not be told apart by text:
    the message names both, and one has to be renamed in the file.

    Raises:
        MissingFileError: There is no such file.
        AnnotationError: The file is not V3Det ground truth; says what it is and what to type.
        VocabularyError: A class name is empty or occurs twice.
    """
    return read_coco_json(source.path, format_name="v3det", file_name_of=named_file, also=("coco",))
