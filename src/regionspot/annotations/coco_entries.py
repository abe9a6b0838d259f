"""The lists of COCO and its relatives, in columns."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, TypeVar, cast

import msgspec
import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from regionspot.annotations.assembly import whole_number
from regionspot.annotations.box_checks import DropReasons, check_xywh, first_reasons
from regionspot.annotations.columns import TextColumn
from regionspot.annotations.json_entries import Entries, Entry
from regionspot.annotations.json_lists import JsonPiece
from regionspot.annotations.region_prompts import (
    Prompt,
    points_text,
    rle_size_hw,
    segmentation_fault,
    segmentation_text,
)
from regionspot.annotations.report import Reason
from regionspot.core.errors import AnnotationError

FileNameOf = Callable[[str | None, str | None], str | None]
"""Gives the path of an image's file below the images folder from its ``file_name`` and its
``coco_url``, either of which may be missing; None if it cannot."""

_Id = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
NO_BOX = (0.0, 0.0, 0.0, 0.0)
"""Stands in columns where there is no box."""
_NOTHING = msgspec.Raw(b"null")
_Number = TypeVar("_Number", bound=np.generic)


class _Image(msgspec.Struct, gc=False):
    id: _Id
    height: _Id
    width: _Id
    file_name: str | None = None
    coco_url: str | None = None


class _Annotation(msgspec.Struct, gc=False):
    image_id: _Id
    category_id: _Id
    bbox: tuple[float, float, float, float]
    iscrowd: Annotated[int, msgspec.Meta(ge=0, le=1)] = 0


class _MaskedAnnotation(_Annotation, gc=False):
    segmentation: msgspec.Raw = _NOTHING


class _PointedAnnotation(_Annotation, gc=False):
    point_coords: msgspec.Raw = _NOTHING
    point_labels: msgspec.Raw = _NOTHING
    keypoints: msgspec.Raw = _NOTHING


_PROMPT_FIELDS: dict[Prompt, tuple[str, ...]] = {
    "box": (),
    "points": ("point_coords", "point_labels", "keypoints"),
    "mask": ("segmentation",),
    "box_and_mask": ("segmentation",),
}


class _Category(msgspec.Struct):
    id: _Id
    name: str
    synonyms: list[str] | None = None


class ImageEntries(Entries[_Image]):
    """The list ``images``."""

    def __init__(self, file_name_of: FileNameOf) -> None:
        super().__init__(msgspec.json.Decoder(list[_Image]))
        self._file_name_of = file_name_of
        self._numbers: list[NDArray[np.int64]] = []
        self._names: list[TextColumn] = []

    @property
    def numbers(self) -> NDArray[np.int64]:
        """Id, height and width of each image, (N, 3)."""
        return np.concatenate([np.zeros((0, 3), np.int64), *self._numbers])

    @property
    def file_names(self) -> TextColumn:
        """File of each image."""
        return TextColumn.joined(self._names)

    @override
    def _take(self, entries: Sequence[_Image]) -> bool:
        names = [name for e in entries if (name := self._file_name_of(e.file_name, e.coco_url))]
        if len(names) < len(entries):
            return False
        self._add(names, [(entry.id, entry.height, entry.width) for entry in entries])
        return True

    @override
    def _take_carefully(self, entries: Sequence[Entry], piece: JsonPiece) -> None:
        names, numbers = [], []
        for index, entry in enumerate(entries):
            place = self._place(piece, index)
            name = self._file_name_of(_text(entry, "file_name"), _text(entry, "coco_url"))
            if not name:
                raise AnnotationError(
                    f"{place} does not name its file (keys: {', '.join(entry)}); wanted file_name,"
                    " the path below --annotations.images_dir."
                )
            names.append(name)
            image_id, height, width = (
                whole_number_in(entry, name, place) for name in ("id", "height", "width")
            )
            numbers.append((image_id, height, width))
        self._add(names, numbers)

    def _add(self, names: list[str], numbers: list[tuple[int, int, int]]) -> None:
        self._names.append(TextColumn.from_texts(names))
        self._numbers.append(np.array(numbers, np.int64).reshape(-1, 3))


class CategoryEntries(Entries[_Category]):
    """The list ``categories``."""

    def __init__(self) -> None:
        super().__init__(msgspec.json.Decoder(list[_Category]))
        self.ids: list[int] = []
        self.names: list[str] = []
        self.synonyms: list[Sequence[str] | None] = []

    @override
    def _take(self, entries: Sequence[_Category]) -> bool:
        self.ids += [entry.id for entry in entries]
        self.names += [entry.name for entry in entries]
        self.synonyms += [entry.synonyms for entry in entries]
        return True

    @override
    def _take_carefully(self, entries: Sequence[Entry], piece: JsonPiece) -> None:
        for index, entry in enumerate(entries):
            place, name = self._place(piece, index), entry.get("name")
            if not isinstance(name, str):
                raise AnnotationError(f"{place}.name is {name!r}; wanted the class name as text.")
            self.ids.append(whole_number_in(entry, "id", place))
            self.names.append(name)
            synonyms = entry.get("synonyms")
            texts = synonyms if isinstance(synonyms, list) else None
            self.synonyms.append(texts and [x for x in texts if isinstance(x, str)])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AnnotationColumns:
    """The list ``annotations``, (A,) each. What cannot be an id is -1, which is no id."""

    image_ids: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    boxes_xyxy: NDArray[np.float32]
    faults: DropReasons
    is_crowd: NDArray[np.bool_]
    prompts: TextColumn | None
    """What SAM is shown in place of the box; None if it is the box. See `region_prompts`."""
    mask_sizes_hw: NDArray[np.int64]
    """Image size that a mask states, (A, 2); -1 for one that states none. (0, 2) if no prompt is a
    mask."""


class AnnotationEntries(Entries[_Annotation]):
    """The list ``annotations``."""

    def __init__(self, prompt: Prompt = "box") -> None:
        super().__init__(msgspec.json.Decoder(_list_of_annotations(prompt)))
        self._prompt: Prompt = prompt
        self._prompts: list[TextColumn] = []
        self._mask_sizes = [np.zeros((0, 2), np.int64)]
        # An empty piece in front, so that a list without any has columns, too.
        self._image_ids = [np.zeros(0, np.int64)]
        self._category_ids = [np.zeros(0, np.int64)]
        self._boxes = [np.zeros((0, 4), np.float32)]
        self._faults = [np.zeros(0, np.int8)]
        self._crowds = [np.zeros(0, np.bool_)]

    def pop_columns(self) -> AnnotationColumns:
        """Return the whole list, and forget it."""
        return AnnotationColumns(
            boxes_xyxy=_pop_joined(self._boxes),
            image_ids=_pop_joined(self._image_ids),
            category_ids=_pop_joined(self._category_ids),
            faults=_pop_joined(self._faults),
            is_crowd=_pop_joined(self._crowds),
            prompts=None if self._prompt == "box" else TextColumn.joined(self._prompts),
            mask_sizes_hw=_pop_joined(self._mask_sizes),
        )

    @override
    def _take(self, entries: Sequence[_Annotation]) -> bool:
        sides = np.array(list(chain.from_iterable([e.bbox for e in entries])), np.float64)
        self._add(
            image_ids=[entry.image_id for entry in entries],
            category_ids=[entry.category_id for entry in entries],
            boxes_xywh=sides.reshape(-1, 4),
            has_box=np.ones(len(entries), np.bool_),
            is_crowd=np.array([entry.iscrowd for entry in entries], np.bool_),
            has_odd_crowd=None,
            prompt_values=(
                [bytes(getattr(entry, field)) for field in _PROMPT_FIELDS[self._prompt]]
                for entry in entries
            ),
        )
        return True

    @override
    def _take_carefully(self, entries: Sequence[Entry], piece: JsonPiece) -> None:
        for field in ("image_id", "category_id"):
            for index, entry in enumerate(entries):
                if field not in entry:
                    place, keys = self._place(piece, index), ", ".join(entry)
                    raise AnnotationError(f"{place} has no {field} (keys: {keys}).")
        boxes = [four_numbers(entry.get("bbox")) for entry in entries]
        crowds = [crowd_of(entry.get("iscrowd")) for entry in entries]
        self._add(
            image_ids=[id_or_unknown(entry["image_id"]) for entry in entries],
            category_ids=[id_or_unknown(entry["category_id"]) for entry in entries],
            boxes_xywh=np.array([box or NO_BOX for box in boxes], np.float64).reshape(-1, 4),
            has_box=np.array([box is not None for box in boxes], np.bool_),
            is_crowd=np.array([crowd is True for crowd in crowds], np.bool_),
            has_odd_crowd=np.array([crowd is None for crowd in crowds], np.bool_),
            prompt_values=(
                [msgspec.json.encode(entry.get(field)) for field in _PROMPT_FIELDS[self._prompt]]
                for entry in entries
            ),
        )

    def _add(
        self,
        *,
        image_ids: list[int],
        category_ids: list[int],
        boxes_xywh: NDArray[np.float64],
        has_box: NDArray[np.bool_],
        is_crowd: NDArray[np.bool_],
        has_odd_crowd: NDArray[np.bool_] | None,
        prompt_values: Iterable[list[bytes]],
    ) -> None:
        boxes_xyxy, faults = check_xywh(boxes_xywh, has_box)
        if has_odd_crowd is not None:
            faults = first_reasons(faults, {Reason.ODD_CROWD: has_odd_crowd})
        if self._prompt == "points":
            texts = [points_text(*values) for values in prompt_values]
            lacks_any = np.array([not text for text in texts], np.bool_)
            faults = first_reasons(faults, {Reason.NO_POINTS: lacks_any})
            self._prompts.append(TextColumn.from_texts(texts))
        elif self._prompt != "box":
            faults = self._add_masks(faults, [value for (value,) in prompt_values])
        self._image_ids.append(np.array(image_ids, np.int64))
        self._category_ids.append(np.array(category_ids, np.int64))
        self._boxes.append(boxes_xyxy)
        self._faults.append(faults)
        self._crowds.append(is_crowd)

    def _add_masks(self, faults: DropReasons, segmentations: Sequence[bytes]) -> DropReasons:
        texts = [segmentation_text(value) for value in segmentations]
        reasons = [segmentation_fault(*pair) for pair in zip(segmentations, texts, strict=True)]
        self._prompts.append(TextColumn.from_texts(texts))
        sizes = [rle_size_hw(text) or (-1, -1) for text in texts]
        self._mask_sizes.append(np.array(sizes, np.int64).reshape(-1, 2))
        against = {
            reason: np.array([found == reason for found in reasons], np.bool_)
            for reason in (Reason.NO_MASK, Reason.BAD_MASK)
        }
        return first_reasons(faults, against)


def _list_of_annotations(prompt: Prompt) -> type[list[_Annotation]]:
    if prompt == "box":
        return list[_Annotation]
    # A list that is only read may hold a kind of the wanted thing.
    kind = list[_PointedAnnotation] if prompt == "points" else list[_MaskedAnnotation]
    return cast("type[list[_Annotation]]", kind)


def _pop_joined(pieces: list[NDArray[_Number]]) -> NDArray[_Number]:
    joined = np.concatenate(pieces)
    pieces.clear()  # at 25 million boxes, holding both would take a gigabyte more
    return joined


def _text(entry: Entry, field: str) -> str | None:
    value = entry.get(field)
    return value if isinstance(value, str) else None


def whole_number_in(entry: Entry, field: str, place: str) -> int:
    """Return a field that has to be a whole number.

    Raises:
        AnnotationError: It is none; names the place.
    """
    number = whole_number(entry.get(field))
    if number is None:
        raise AnnotationError(
            f"{place}.{field} is {entry.get(field)!r}; wanted a whole number, 0 or more."
        )
    return number


def id_or_unknown(value: object) -> int:
    """Map what cannot be an id to -1, which no image or category has: it is counted as unknown."""
    number = whole_number(value)
    return -1 if number is None else number


def crowd_of(value: object) -> bool | None:
    """Return what a value of ``iscrowd`` says, which is no if it is null; None if it is unclear."""
    if value is None or isinstance(value, bool):
        return bool(value)
    if isinstance(value, str) and value.strip().lower() in {"true", "false"}:
        return value.strip().lower() == "true"
    number = whole_number(value)
    return bool(number) if number in {0, 1} else None


def four_numbers(value: object) -> tuple[float, ...] | None:
    """Return the sides of a box, infinite where no float is as large; None if it is no box."""
    if not isinstance(value, list) or len(value) != 4:
        return None
    if not all(isinstance(side, (int, float)) for side in value):
        return None
    try:
        return tuple(float(side) for side in value)
    except OverflowError:  # a whole number beyond all floats
        return (math.inf,) * 4
