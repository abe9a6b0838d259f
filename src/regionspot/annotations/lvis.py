"""Reads LVIS ground truth, and the parts of its lists that only scoring needs.

Caching and scoring read ids, class names and boxes with the same classes, so that these, and
damaged files, mean the same in both.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Literal

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
from regionspot.annotations.json_lists import JsonPiece
from regionspot.annotations.options import Source
from regionspot.core.errors import AnnotationError

Frequency = Literal["r", "c", "f"]
FREQUENCIES: tuple[Frequency, ...] = ("r", "c", "f")

INSTEAD = (
    "LVIS AP needs the federated labels of an LVIS file (lvis_v1_val.json): which categories were"
    " looked for in which image, and how frequent each is. Plain COCO-format ground truth has"
    " neither and needs COCO AP, which `evaluate.py` does not offer: write predictions.json and"
    " score it with torchmetrics.detection.MeanAveragePrecision or pycocotools."
)
"""What to do with a file that is not LVIS, for messages."""

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


class _Category(msgspec.Struct, gc=False):
    frequency: Frequency


class _Annotation(msgspec.Struct, gc=False):
    id: JsonId
    bbox: tuple[float, float, float, float]
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
    def _take_carefully(self, entries: Sequence[Entry], piece: JsonPiece) -> None:
        for index, entry in enumerate(entries):
            place = self._place(piece, index)
            _check_keys(entry, ("id", "neg_category_ids", "not_exhaustive_category_ids"), place)
            self.labels[whole_number_in(entry, "id", place)] = FederatedLabels(
                negative=_list_of_ids(entry, "neg_category_ids", place),
                not_exhaustive=_list_of_ids(entry, "not_exhaustive_category_ids", place),
            )


class LvisFrequencies(Entries[_Category]):
    """How frequent each category is."""

    def __init__(self) -> None:
        super().__init__(msgspec.json.Decoder(list[_Category]))
        self.values: list[Frequency] = []

    @override
    def _take(self, entries: Sequence[_Category]) -> bool:
        self.values += [entry.frequency for entry in entries]
        return True

    @override
    def _take_carefully(self, entries: Sequence[Entry], piece: JsonPiece) -> None:
        for index, entry in enumerate(entries):
            place = self._place(piece, index)
            _check_keys(entry, ("id", "frequency"), place)
            frequency = entry["frequency"]
            if frequency not in FREQUENCIES:
                raise AnnotationError(
                    f"{place} has the frequency {frequency!r}; wanted 'r', 'c' or 'f'."
                )
            self.values.append(frequency)


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
        self.strange_areas: dict[int, str] = {}
        """What was found in place of an area, by the position of the annotation."""

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
    def _take_carefully(self, entries: Sequence[Entry], piece: JsonPiece) -> None:
        areas = [_number(entry.get("area")) for entry in entries]
        for index, entry in enumerate(entries):
            if areas[index] is None:
                value = str(entry.get("area"))[:40]
                told = f"has the area {value}" if "area" in entry else "lacks ['area']"
                self.strange_areas[self.count + index] = told
        self.columns.add(
            ids=[id_or_unknown(entry.get("id")) for entry in entries],
            boxes_xywh=[four_numbers(entry.get("bbox")) or _NO_NUMBERS for entry in entries],
            areas=[math.nan if area is None else area for area in areas],
            is_ignored=[bool(entry.get("ignore")) for entry in entries],
        )


def _check_keys(entry: Entry, keys: tuple[str, ...], place: str) -> None:
    missing = [key for key in keys if key not in entry]
    if missing:
        raise AnnotationError(f"{place} lacks {missing}: not LVIS format. {INSTEAD}")


def _list_of_ids(entry: Entry, field: str, place: str) -> tuple[int, ...]:
    value = entry[field]
    numbers = [id_or_unknown(item) for item in value] if isinstance(value, list) else [-1]
    if -1 in numbers:
        raise AnnotationError(
            f"{place}.{field} is {str(value)[:60]}; wanted a list of category ids, [] if there are"
            f" none. {INSTEAD}"
        )
    return tuple(numbers)


def _number(value: object) -> float | None:
    try:
        return float(value) if isinstance(value, (int, float)) else None
    except OverflowError:  # a whole number beyond all floats
        return None
