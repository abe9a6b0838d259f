"""What COCO, LVIS and their relatives share: a JSON object of images, annotations, categories."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from regionspot.annotations.coco_entries import (
    AnnotationEntries,
    CategoryEntries,
    FileNameOf,
    ImageEntries,
)
from regionspot.annotations.identities import distinct_images, rows_of, synonyms_of, vocabulary_of
from regionspot.annotations.json_entries import OtherEntries
from regionspot.annotations.json_stream import PIECE_BYTES, JsonStream
from regionspot.annotations.raw import ImageColumns, RawAnnotations
from regionspot.annotations.recognition import (
    WANTED_LISTS,
    ListSummary,
    Outline,
    describe,
    recognize_format,
)
from regionspot.annotations.region_prompts import Prompt
from regionspot.annotations.report import Reason
from regionspot.annotations.text_column import TextColumn
from regionspot.core.errors import AnnotationError


def read_coco_json(
    path: Path,
    *,
    format_name: str,
    file_name_of: FileNameOf,
    also: Iterable[str] = (),
    prompt: Prompt | None = None,
    piece_bytes: int = PIECE_BYTES,
) -> RawAnnotations:
    """Read a COCO-like file, in any order of its lists, without holding it in memory.

    Args:
        path: The file.
        format_name: The format that was asked for, which the file must be recognised to be in.
        file_name_of: Gives the path of an image's file below the images folder.
        also: Further formats that the file may be recognised to be in.
        prompt: What of a region SAM is to be shown; its box if None.
        piece_bytes: Bytes that are decoded at once.

    Raises:
        MissingFileError: There is no such file.
        AnnotationError: The file is damaged or in another format, a list is missing, or an entry
            lacks what it needs; names list and place.
        VocabularyError: A class name is empty or occurs twice.
    """
    reading = _Reading(path, file_name_of, prompt or "box", piece_bytes)
    reading.read()
    _check_format(path, reading.outline, format_name, {format_name, *also})
    return reading.annotations()


class _Reading:
    """Reads the lists of one file."""

    def __init__(
        self, path: Path, file_name_of: FileNameOf, prompt: Prompt, piece_bytes: int
    ) -> None:
        self._path = path
        self._file_name_of = file_name_of
        self._stream = JsonStream(path, piece_bytes=piece_bytes)
        self._images = ImageEntries(file_name_of)
        self._prompt: Prompt = prompt
        self._annotations = AnnotationEntries(prompt)
        self._categories = CategoryEntries()
        self._summaries: dict[str | None, ListSummary] = {}

    def read(self) -> None:
        """Read the whole file; complaints about entries wait until its format is known."""
        entries: ImageEntries | AnnotationEntries | CategoryEntries | OtherEntries
        entries = OtherEntries()
        for piece in self._stream.pieces():
            if piece.is_first:
                entries = self._begin(piece.name if piece.is_list else None)
                first = piece.load_first() if piece.is_list else None
                self._summaries[piece.name] = ListSummary(first=first)
            entries.add(piece)
            self._summaries[piece.name].count = entries.count

    def _begin(
        self, name: str | None
    ) -> ImageEntries | AnnotationEntries | CategoryEntries | OtherEntries:
        if name == "images":
            self._images = ImageEntries(self._file_name_of)
            return self._images
        if name == "annotations":
            self._annotations = AnnotationEntries(self._prompt)
            return self._annotations
        if name == "categories":
            self._categories = CategoryEntries()
            return self._categories
        return OtherEntries()

    @property
    def outline(self) -> Outline:
        """What the file is made of."""
        return Outline(skeleton=self._stream.skeleton, lists=self._summaries)

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
        return RawAnnotations(
            images=images,
            num_repeated_images=num_repeated,
            vocabulary=vocabulary,
            synonyms=synonyms_of(vocabulary, self._categories.names, self._categories.synonyms),
            category_ids=category_ids,
            image_rows=rows_of(columns.image_ids, images.ids),
            labels=rows_of(columns.category_ids, np.array(category_ids, np.int64)),
            boxes_xyxy=columns.boxes_xyxy,
            faults=columns.faults,
            marks={Reason.CROWD: columns.is_crowd},
            prompts=columns.prompts,
            sha256s=(self._stream.sha256,),
        )


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
