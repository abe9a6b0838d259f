"""The lists of an LVIS file, as far as scoring needs them.

What caching needs too is read by the same classes, so that ids, class names and damaged files mean
the same in both.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
import numpy as np
from typing_extensions import override

from regionspot.annotations.coco_entries import (
    AnnotationEntries,
    CategoryEntries,
    four_numbers,
    id_or_unknown,
    whole_number_in,
)
from regionspot.annotations.json_entries import (
    AnyEntries,
    Entries,
    Entry,
    OtherEntries,
    SideBySide,
)
from regionspot.annotations.json_lists import JsonPiece
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

_Id = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_NO_NUMBERS = (math.nan,) * 4


@dataclass(frozen=True, slots=True, kw_only=True)
class FederatedLabels:
    """What was looked for in one image."""

    negative: tuple[int, ...]
    """Categories that are not in the image (``neg_category_ids``)."""
    not_exhaustive: tuple[int, ...]
    """Categories that are, but of which not every instance is annotated."""


class _Image(msgspec.Struct, gc=False):
    id: _Id
    neg_category_ids: list[_Id]
    not_exhaustive_category_ids: list[_Id]


class _Category(msgspec.Struct, gc=False):
    frequency: Frequency


class _Annotation(msgspec.Struct, gc=False):
    id: _Id
    bbox: tuple[float, float, float, float]
    area: float
    ignore: int = 0


class LvisLists:
    """The three lists of a file."""

    def __init__(self) -> None:
        self._begin_images()
        self._begin_categories()
        self._begin_annotations()

    def begin(self, name: str | None) -> AnyEntries:
        """Start the list of this name."""
        begin = {
            "images": self._begin_images,
            "categories": self._begin_categories,
            "annotations": self._begin_annotations,
        }
        return begin[name]() if name in begin else OtherEntries()

    @property
    def error(self) -> AnnotationError | None:
        """The first complaint about an entry."""
        lists = (self.frequencies, self.categories, self.images, self.annotations, self.figures)
        return next((entries.error for entries in lists if entries.error is not None), None)

    def _begin_images(self) -> AnyEntries:
        self.images = LvisImages()
        return self.images

    def _begin_categories(self) -> AnyEntries:
        self.categories, self.frequencies = CategoryEntries(), LvisFrequencies()
        return SideBySide(self.categories, self.frequencies)

    def _begin_annotations(self) -> AnyEntries:
        self.annotations, self.figures = AnnotationEntries(), LvisFigures()
        return SideBySide(self.annotations, self.figures)


class LvisImages(Entries[_Image]):
    """The list ``images``. Of an image that is listed again the last entry counts, as in `lvis`."""

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
            check_keys(entry, ("id", "neg_category_ids", "not_exhaustive_category_ids"), place)
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
            check_keys(entry, ("id", "frequency"), place)
            frequency = entry["frequency"]
            if frequency not in FREQUENCIES:
                raise AnnotationError(
                    f"{place} has the frequency {frequency!r}; wanted 'r', 'c' or 'f'."
                )
            self.values.append(frequency)


class LvisFigures(Entries[_Annotation]):
    """Id, box, area and ``ignore`` of each annotation, in pieces of columns."""

    def __init__(self) -> None:
        super().__init__(msgspec.json.Decoder(list[_Annotation]))
        # An empty piece in front, so that a list without any has columns, too.
        self.ids = [np.zeros(0, np.int64)]
        """Whole numbers of 0 or more; -1 for anything else."""
        self.boxes_xywh = [np.zeros((0, 4))]
        """NaN where there are no four numbers."""
        self.areas = [np.zeros(0)]
        """NaN where there is no number; see `strange_areas`."""
        self.is_ignored = [np.zeros(0, np.bool_)]
        self.strange_areas: dict[int, str] = {}
        """What was found in place of an area, by the position of the annotation."""

    @override
    def _take(self, entries: Sequence[_Annotation]) -> bool:
        self._add(
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
        self._add(
            ids=[id_or_unknown(entry.get("id")) for entry in entries],
            boxes_xywh=[four_numbers(entry.get("bbox")) or _NO_NUMBERS for entry in entries],
            areas=[math.nan if area is None else area for area in areas],
            is_ignored=[bool(entry.get("ignore")) for entry in entries],
        )

    def _add(
        self,
        *,
        ids: list[int],
        boxes_xywh: Sequence[tuple[float, ...]],
        areas: list[float],
        is_ignored: list[bool],
    ) -> None:
        self.ids.append(np.array(ids, np.int64))
        self.boxes_xywh.append(np.array(boxes_xywh, np.float64).reshape(-1, 4))
        self.areas.append(np.array(areas, np.float64))
        self.is_ignored.append(np.array(is_ignored, np.bool_))


def check_keys(entry: Entry, keys: tuple[str, ...], place: str) -> None:
    """Refuse an entry without one of the keys.

    Raises:
        AnnotationError: One is missing.
    """
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
