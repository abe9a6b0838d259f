"""The lists of COCO and its relatives, in columns."""

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Annotated, cast

import msgspec
import numpy as np
from typing_extensions import override

from regionspot.annotations.box_checks import DropReasons, check_boxes, first_reasons
from regionspot.annotations.columns import GrowingColumns, TextColumn
from regionspot.annotations.json_entries import (
    Entries,
    Entry,
    box_columns,
    four_numbers,
    id_or_unknown,
    whole_number,
    whole_number_in,
)
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
"""Returns the path of an image relative to the images folder, given its ``file_name`` and its
``coco_url``, either of which may be missing; None if it cannot."""

JsonId = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_NOTHING = msgspec.Raw(b"null")


class _Image(msgspec.Struct, gc=False):
    id: JsonId
    height: JsonId
    width: JsonId
    file_name: str | None = None
    coco_url: str | None = None


class _Annotation(msgspec.Struct, gc=False):
    image_id: JsonId
    category_id: JsonId
    bbox: tuple[float, float, float, float]
    iscrowd: Annotated[int, msgspec.Meta(ge=0, le=1)] = 0


class _MaskedAnnotation(_Annotation, gc=False):
    segmentation: msgspec.Raw = _NOTHING


class _PointedAnnotation(_Annotation, gc=False):
    point_coords: msgspec.Raw = _NOTHING
    point_labels: msgspec.Raw = _NOTHING
    keypoints: msgspec.Raw = _NOTHING


_KIND_OF: dict[Prompt, type[_Annotation]] = {
    "box": _Annotation,
    "points": _PointedAnnotation,
    "mask": _MaskedAnnotation,
    "box_and_mask": _MaskedAnnotation,
}


class _Category(msgspec.Struct):
    id: JsonId
    name: str
    synonyms: list[str] | None = None


class ImageEntries(Entries[_Image]):
    """The list ``images``."""

    def __init__(self, file_name_of: FileNameOf) -> None:
        super().__init__(msgspec.json.Decoder(list[_Image]))
        self._file_name_of = file_name_of
        self._names: list[TextColumn] = []
        self.columns = GrowingColumns(ids_and_sizes_hw=(np.int64, 3))

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
            numbers.append(
                [whole_number_in(entry, key, place) for key in ("id", "height", "width")]
            )
        self._add(names, numbers)

    def _add(self, names: list[str], numbers: Sequence[Sequence[int]]) -> None:
        self._names.append(TextColumn.from_texts(names))
        self.columns.add(ids_and_sizes_hw=numbers)


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


class AnnotationEntries(Entries[_Annotation]):
    """The list ``annotations``."""

    def __init__(self, prompt: Prompt = "box") -> None:
        kind = _KIND_OF[prompt]
        # A list that is only read may hold a subclass.
        super().__init__(msgspec.json.Decoder(cast("type[list[_Annotation]]", list[kind])))  # type: ignore[valid-type]
        self._prompt: Prompt = prompt
        self._prompt_fields = kind.__struct_fields__[len(_Annotation.__struct_fields__) :]
        self._prompts: list[TextColumn] = []
        self.columns = GrowingColumns(
            image_ids=np.int64,  # -1 for what cannot be an id
            category_ids=np.int64,
            boxes_xyxy=(np.float32, 4),
            faults=np.int8,
            is_crowd=np.bool_,
            mask_sizes_hw=(np.int64, 2),  # -1 for a mask that states none; no row without masks
        )

    def prompts(self) -> TextColumn | None:
        """Return SAM's prompts (see `region_prompts`); None if they are the boxes."""
        return None if self._prompt == "box" else TextColumn.joined(self._prompts)

    @override
    def _take(self, entries: Sequence[_Annotation]) -> bool:
        sides = np.array(list(chain.from_iterable([e.bbox for e in entries])), np.float64)
        boxes_xyxy, faults = check_boxes(sides.reshape(-1, 4), "xywh")
        self.columns.add(
            image_ids=[entry.image_id for entry in entries],
            category_ids=[entry.category_id for entry in entries],
            boxes_xyxy=boxes_xyxy,
            is_crowd=[entry.iscrowd for entry in entries],
        )
        self._add_prompts(
            faults, ([bytes(getattr(entry, f)) for f in self._prompt_fields] for entry in entries)
        )
        return True

    @override
    def _take_carefully(self, entries: Sequence[Entry], piece: JsonPiece) -> None:
        for field in ("image_id", "category_id"):
            for index, entry in enumerate(entries):
                if field not in entry:
                    place, keys = self._place(piece, index), ", ".join(entry)
                    raise AnnotationError(f"{place} has no {field} (keys: {keys}).")
        boxes = box_columns([four_numbers(entry.get("bbox")) for entry in entries])
        boxes_xyxy, faults = check_boxes(boxes[0], "xywh", has_box=boxes[1])
        crowds = [_crowd_of(entry.get("iscrowd")) for entry in entries]
        is_odd = np.array([crowd is None for crowd in crowds], np.bool_)
        self.columns.add(
            image_ids=[id_or_unknown(entry["image_id"]) for entry in entries],
            category_ids=[id_or_unknown(entry["category_id"]) for entry in entries],
            boxes_xyxy=boxes_xyxy,
            is_crowd=[crowd is True for crowd in crowds],
        )
        self._add_prompts(
            first_reasons(faults, {Reason.ODD_CROWD: is_odd}),
            ([msgspec.json.encode(entry.get(f)) for f in self._prompt_fields] for entry in entries),
        )

    def _add_prompts(self, faults: DropReasons, values: Iterable[list[bytes]]) -> None:
        """Add the JSON values that SAM's prompts are made of, and all faults."""
        if self._prompt == "points":
            texts = [points_text(*of_entry) for of_entry in values]
            lacks_any = np.array([not text for text in texts], np.bool_)
            first_reasons(faults, {Reason.NO_POINTS: lacks_any})
            self._prompts.append(TextColumn.from_texts(texts))
        elif self._prompt != "box":
            self._add_masks(faults, [value for (value,) in values])
        self.columns.add(faults=faults)

    def _add_masks(self, faults: DropReasons, segmentations: Sequence[bytes]) -> None:
        texts = [segmentation_text(value) for value in segmentations]
        reasons = [segmentation_fault(*pair) for pair in zip(segmentations, texts, strict=True)]
        self._prompts.append(TextColumn.from_texts(texts))
        self.columns.add(mask_sizes_hw=[rle_size_hw(text) or (-1, -1) for text in texts])
        against = {
            reason: np.array([found == reason for found in reasons], np.bool_)
            for reason in (Reason.NO_MASK, Reason.BAD_MASK)
        }
        first_reasons(faults, against)


def _text(entry: Entry, field: str) -> str | None:
    value = entry.get(field)
    return value if isinstance(value, str) else None


def _crowd_of(value: object) -> bool | None:
    """Return the meaning of an ``iscrowd`` (null is no); None if it is unclear."""
    if value is None or isinstance(value, bool):
        return bool(value)
    if isinstance(value, str) and value.strip().lower() in {"true", "false"}:
        return value.strip().lower() == "true"
    number = whole_number(value)
    return bool(number) if number in {0, 1} else None
