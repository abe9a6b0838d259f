"""The lists of COCO and its relatives, in columns."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, cast

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
    frequency: Any = None


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
        self._names.append(TextColumn.from_texts(names))
        self.columns.add(ids_and_sizes_hw=[(e.id, e.height, e.width) for e in entries])
        return True

    @override
    def _parse(self, entry: Entry, place: str) -> _Image:
        file_name, coco_url = _text(entry, "file_name"), _text(entry, "coco_url")
        if not self._file_name_of(file_name, coco_url):
            raise AnnotationError(
                f"{place} does not name its file (keys: {', '.join(entry)}); wanted file_name, the"
                " path below --annotations.images_dir."
            )
        return _Image(
            id=whole_number_in(entry, "id", place),
            height=whole_number_in(entry, "height", place),
            width=whole_number_in(entry, "width", place),
            file_name=file_name,
            coco_url=coco_url,
        )


class CategoryEntries(Entries[_Category]):
    """The list ``categories``."""

    def __init__(self) -> None:
        super().__init__(msgspec.json.Decoder(list[_Category]))
        self.ids: list[int] = []
        self.names: list[str] = []
        self.synonyms: list[Sequence[str] | None] = []
        self.frequencies: list[object] = []
        """LVIS's frequencies, not checked."""

    @override
    def _take(self, entries: Sequence[_Category]) -> bool:
        self.ids += [entry.id for entry in entries]
        self.names += [entry.name for entry in entries]
        self.synonyms += [entry.synonyms for entry in entries]
        self.frequencies += [entry.frequency for entry in entries]
        return True

    @override
    def _parse(self, entry: Entry, place: str) -> _Category:
        name, synonyms = entry.get("name"), entry.get("synonyms")
        if not isinstance(name, str):
            raise AnnotationError(f"{place}.name is {name!r}; wanted the class name as text.")
        return _Category(
            id=whole_number_in(entry, "id", place),
            name=name,
            synonyms=[text for text in synonyms if isinstance(text, str)]
            if isinstance(synonyms, list)
            else None,
            frequency=entry.get("frequency"),
        )


class AnnotationEntries(Entries[_Annotation]):
    """The list ``annotations``."""

    def __init__(self, prompt: Prompt = "box") -> None:
        self._kind = _KIND_OF[prompt]
        super().__init__(msgspec.json.Decoder(list[self._kind]))  # type: ignore[name-defined]
        self._prompt: Prompt = prompt
        num_shared = len(_Annotation.__struct_fields__)
        self._prompt_fields = self._kind.__struct_fields__[num_shared:]
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
        boxes, has_box = box_columns([entry.bbox for entry in entries])
        boxes_xyxy, faults = check_boxes(boxes, "xywh", has_box)
        crowds = [entry.iscrowd for entry in entries]
        if None in crowds:
            is_odd = np.array([crowd is None for crowd in crowds], np.bool_)
            first_reasons(faults, {Reason.ODD_CROWD: is_odd})
        if self._prompt != "box":
            values = [[bytes(getattr(e, field)) for field in self._prompt_fields] for e in entries]
            self._add_prompts(faults, values)
        self.columns.add(
            image_ids=[entry.image_id for entry in entries],
            category_ids=[entry.category_id for entry in entries],
            boxes_xyxy=boxes_xyxy,
            faults=faults,
            is_crowd=crowds,
        )
        return True

    @override
    def _parse(self, entry: Entry, place: str) -> _Annotation:
        for field in ("image_id", "category_id"):
            if field not in entry:
                raise AnnotationError(f"{place} has no {field} (keys: {', '.join(entry)}).")
        prompts = {
            field: msgspec.Raw(msgspec.json.encode(entry.get(field)))
            for field in self._prompt_fields
        }
        return self._kind(
            image_id=id_or_unknown(entry["image_id"]),
            category_id=id_or_unknown(entry["category_id"]),
            bbox=cast("Any", four_numbers(entry.get("bbox"))),
            iscrowd=cast("Any", _crowd_of(entry.get("iscrowd"))),
            **prompts,
        )

    def _add_prompts(self, faults: DropReasons, values: Sequence[Sequence[bytes]]) -> None:
        """Add SAM's prompts, given as the JSON values that they are made of, and their faults."""
        if self._prompt == "points":
            texts = [points_text(*of_entry) for of_entry in values]
            lacks_any = np.array([not text for text in texts], np.bool_)
            first_reasons(faults, {Reason.NO_POINTS: lacks_any})
        else:
            texts = [segmentation_text(value) for (value,) in values]
            pairs = zip(values, texts, strict=True)
            reasons = [segmentation_fault(value, text) for (value,), text in pairs]
            for reason in (Reason.NO_MASK, Reason.BAD_MASK):
                applies = np.array([found == reason for found in reasons], np.bool_)
                first_reasons(faults, {reason: applies})
            self.columns.add(mask_sizes_hw=[rle_size_hw(text) or (-1, -1) for text in texts])
        self._prompts.append(TextColumn.from_texts(texts))


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
