"""Reads LVIS ground truth, and the parts of its lists that only scoring needs.

Caching and scoring read ids, class names and boxes with the same classes, so that these, and
damaged files, mean the same in both.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Literal, cast

import msgspec
import numpy as np
from typing_extensions import override

from regionspot.annotations.coco import read_coco_json
from regionspot.annotations.coco_entries import JsonId
from regionspot.annotations.columns import GrowingColumns, RawAnnotations
from regionspot.annotations.json_entries import (
    Entries,
    Entry,
    four_numbers,
    id_or_unknown,
    whole_number_in,
)
from regionspot.annotations.options import Source
from regionspot.core.errors import AnnotationError

Frequency = Literal["r", "c", "f"]
FREQUENCIES: tuple[Frequency, ...] = ("r", "c", "f")

INSTEAD = (
    "LVIS AP needs the federated labels of an LVIS file (lvis_v1_val.json): which categories were"
    " looked for in which image, and how frequent each is. Plain COCO-format ground truth has"
    " neither: cache it with --annotations.format coco, and `evaluate.py` computes COCO AP."
)
"""What to do with a file that is not LVIS, for messages."""

_Sides = tuple[float, float, float, float]
_NO_NUMBERS = (math.nan,) * 4


def read_lvis(source: Source) -> RawAnnotations:
    """Read an LVIS file.

    Version 0.5 names an image's file in ``file_name``. Version 1 does not: there the path is the
    end of ``coco_url``, folder and name, since LVIS splits are not COCO splits (its val has images
    of COCO's ``train2017``). The images folder is then the one that holds ``train2017`` and
    ``val2017``.
    """
    images = LvisImages()
    raw = read_coco_json(
        source.path,
        format_name="lvis",
        file_name_of=_file_name,
        prompt=source.options.prompt,
        beside=[images],
    )
    if images.error is None:
        return raw
    # Training works without these labels; users who want AP should know before hours of caching.
    found = str(images.error).removesuffix(INSTEAD).rstrip(" .")
    note = f"evaluate.py and --val_annotations will refuse this file: {found}"
    return replace(raw, notes=(*raw.notes, note))


def _file_name(file_name: str | None, coco_url: str | None) -> str | None:
    if file_name is not None:
        return file_name
    return None if coco_url is None else "/".join(PurePosixPath(coco_url).parts[-2:])


@dataclass(frozen=True, slots=True, kw_only=True)
class FederatedLabels:
    """Which categories were looked for in one image."""

    negative: tuple[int, ...]
    """Categories that are not in the image (``neg_category_ids``)."""
    not_exhaustive: tuple[int, ...]
    """Categories that are, but of which not every instance is annotated."""


class _Image(msgspec.Struct, gc=False):
    id: JsonId
    neg_category_ids: list[JsonId]
    not_exhaustive_category_ids: list[JsonId]


class _Annotation(msgspec.Struct, gc=False):
    id: JsonId
    bbox: _Sides
    area: float
    ignore: int = 0


class LvisImages(Entries[_Image]):
    """The list ``images``. If an image is listed again, the last entry counts, as in `lvis`."""

    def __init__(self) -> None:
        super().__init__(msgspec.json.Decoder(list[_Image]))
        self.labels: dict[int, FederatedLabels] = {}

    @override
    def _take(self, entries: Sequence[_Image]) -> bool:
        for entry in entries:
            self.labels[entry.id] = FederatedLabels(
                negative=tuple(entry.neg_category_ids),
                not_exhaustive=tuple(entry.not_exhaustive_category_ids),
            )
        return True

    @override
    def _parse(self, entry: Entry, place: str) -> _Image:
        keys = ("id", "neg_category_ids", "not_exhaustive_category_ids")
        if missing := [key for key in keys if key not in entry]:
            raise AnnotationError(f"{place} lacks {missing}: not LVIS format. {INSTEAD}")
        return _Image(
            id=whole_number_in(entry, "id", place),
            neg_category_ids=_list_of_ids(entry, "neg_category_ids", place),
            not_exhaustive_category_ids=_list_of_ids(entry, "not_exhaustive_category_ids", place),
        )


class LvisFigures(Entries[_Annotation]):
    """Id, box, area and ``ignore`` of each annotation."""

    def __init__(self) -> None:
        super().__init__(msgspec.json.Decoder(list[_Annotation]))
        self.columns = GrowingColumns(
            ids=np.int64,  # -1 for anything but a whole number of 0 or more
            boxes_xywh=(np.float64, 4),  # NaN where there are no four numbers
            areas=np.float64,  # NaN where there is no number
            is_ignored=np.bool_,
        )
        self.strange_areas: dict[str, str] = {}
        """What was found in place of an area, by the place of the annotation in messages."""

    @override
    def _take(self, entries: Sequence[_Annotation]) -> bool:
        self.columns.add(
            ids=[entry.id for entry in entries],
            boxes_xywh=[entry.bbox for entry in entries],
            areas=[entry.area for entry in entries],
            is_ignored=[bool(entry.ignore) for entry in entries],
        )
        return True

    @override
    def _parse(self, entry: Entry, place: str) -> _Annotation:
        area = _number(entry.get("area"))
        if area is None:
            value = str(entry.get("area"))[:40]
            found = f"has the area {value}" if "area" in entry else "lacks ['area']"
            self.strange_areas[place] = found
        return _Annotation(
            id=id_or_unknown(entry.get("id")),
            bbox=cast("_Sides", four_numbers(entry.get("bbox")) or _NO_NUMBERS),
            area=math.nan if area is None else area,
            ignore=bool(entry.get("ignore")),
        )


def _list_of_ids(entry: Entry, field: str, place: str) -> list[int]:
    value = entry[field]
    numbers = [id_or_unknown(item) for item in value] if isinstance(value, list) else [-1]
    if -1 in numbers:
        raise AnnotationError(
            f"{place}.{field} is {str(value)[:60]}; wanted a list of category ids, [] if there are"
            f" none. {INSTEAD}"
        )
    return numbers


def _number(value: object) -> float | None:
    try:
        return float(value) if isinstance(value, (int, float)) else None
    except OverflowError:  # a whole number beyond all floats
        return None
