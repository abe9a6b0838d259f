"""LVIS ground truth: which annotations of a file count, by the rules of `lvis` 0.5.3.

These are not the rules by which caching chooses regions: a box of zero width is no region, but
`lvis` counts it, and it is missed. Where `lvis` stops with an exception, the rule is that of
caching.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from regionspot.annotations.assembly import vocabulary_of
from regionspot.annotations.coco_entries import AnnotationEntries, CategoryEntries
from regionspot.annotations.columns import TextColumn
from regionspot.annotations.detect_format import WANTED_LISTS, Outline
from regionspot.annotations.json_entries import Entries, read_lists
from regionspot.annotations.json_lists import JsonFile
from regionspot.annotations.lvis import (
    FREQUENCIES,
    INSTEAD,
    FederatedLabels,
    Frequency,
    LvisFigures,
    LvisImages,
)
from regionspot.annotations.opening import FileRole
from regionspot.annotations.report import few
from regionspot.annotations.truth_masks import ImageSizes, encoded_masks
from regionspot.core.errors import AnnotationError, MissingFileError
from regionspot.core.rle_masks import RleMasks


@dataclass(frozen=True, slots=True, kw_only=True)
class LvisCategory:
    """One category of an LVIS file."""

    id: int
    """The data set's own category id."""
    name: str
    """The class name as the file spells it."""
    frequency: Frequency
    """Rare, common or frequent: in how many training images LVIS found it (<10, <100, more)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LvisRegions:
    """Annotations in columns, in the order of the file. A annotations."""

    image_ids: NDArray[np.int64]
    """The image of each, (A,)."""
    category_ids: NDArray[np.int64]
    """Its category, (A,)."""
    boxes_xywh: NDArray[np.float64]
    """Its box as (x, y, width, height), (A, 4), pixels, as in the file."""
    areas: NDArray[np.float64]
    """Area of its segment in square pixels, (A,), as in the file."""
    is_ignored: NDArray[np.bool_]
    """Whether it counts neither as found nor as missed (``ignore``), (A,)."""
    ids: NDArray[np.int64]
    """Its own id, (A,); -1 for one that is no whole number of 0 or more."""
    masks: RleMasks | None = None
    """Its mask, A in all; None if masks were not read."""

    def __len__(self) -> int:
        return len(self.image_ids)

    def select(self, rows: NDArray[np.bool_]) -> "LvisRegions":
        """Return the annotations that a mask (A,) chooses."""
        columns = {
            column.name: getattr(self, column.name)[rows]
            for column in fields(self)
            if getattr(self, column.name) is not None
        }
        return LvisRegions(**columns)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LvisGroundTruth:
    """The content of an LVIS file, as far as scoring needs it."""

    name: str
    """Its name in messages: the path of the file."""
    sha256: str
    """SHA-256 of the file's bytes in hex, whatever subset of its images is kept."""
    categories: tuple[LvisCategory, ...]
    """The categories, in order of their ids."""
    labels: Mapping[int, FederatedLabels] = field(repr=False)
    """The federated labels of each evaluated image, by image id, in the file's order."""
    regions: LvisRegions = field(repr=False)
    """The annotations that count, in those images."""
    notes: tuple[str, ...]
    """Which annotations of the file do not count, and why, one sentence per reason."""
    sizes_hw: Mapping[int, tuple[int, int]] = field(default_factory=dict, repr=False)
    """Height and width of each image of the file in pixels, by id; {} if masks were not read."""

    @classmethod
    def read(cls, path: Path, *, option: str = "--annotations", with_masks: bool = False) -> Self:
        """Read an annotation file in LVIS format.

        An annotation counts if the file lists its image and its category, if its ``area`` is
        positive and finite, and if its ``bbox`` has four finite numbers. As in `lvis`, ``iscrowd``
        has no effect and ``ignore`` does.

        Args:
            path: The file.
            option: The command-line option that gave it, for messages.
            with_masks: Whether to read the masks, for mask AP.

        Raises:
            MissingFileError: There is no such file.
            AnnotationError: The file is damaged or not in LVIS format, an entry lacks what scoring
                needs, or two annotations have the same id; names list and place.
            VocabularyError: A class name is empty or occurs twice.
            MissingExtraError: Masks are to be read, and pycocotools is not installed.
        """
        if not path.exists():
            raise MissingFileError(
                f"no annotation file at {path}. Set {option} to LVIS ground truth; LVIS v1's is"
                " lvis_v1_val.json from https://www.lvisdataset.org/dataset."
            )
        file = JsonFile(path, role=FileRole(noun="annotation file", option=option))
        images, categories, sizes = LvisImages(), CategoryEntries(), ImageSizes()
        annotations = AnnotationEntries("mask" if with_masks else "box")
        figures = LvisFigures()
        readers: dict[str | None, Sequence[Entries[Any]]] = {
            "images": [images, sizes] if with_masks else [images],
            "categories": [categories],
            "annotations": [annotations, figures],
        }
        _check_lists(path, read_lists(file, readers))
        frequencies = _checked(categories.frequencies, path)
        for entries in (categories, images, sizes, annotations, figures):
            entries.check()
        vocabulary, category_ids = vocabulary_of(categories.ids, categories.names, path)
        frequency_of = dict(zip(categories.ids, frequencies, strict=True))
        if not images.labels:
            raise AnnotationError(f"{path} lists no image. Give a file with at least one image.")
        found = LvisRegions(
            **annotations.columns.pop_all("image_ids", "category_ids"),
            **figures.columns.pop_all("boxes_xywh", "areas", "is_ignored", "ids"),
        )
        counts, notes = _counted(
            found,
            image_ids=list(images.labels),
            category_ids=category_ids,
            strange_areas=figures.strange_areas,
            path=path,
        )
        regions = found.select(counts)
        if with_masks:
            masks = encoded_masks(
                cast("TextColumn", annotations.prompts()),
                np.flatnonzero(counts).tolist(),
                regions.image_ids.tolist(),
                sizes_hw=sizes.sizes_hw,
                path=path,
            )
            regions = replace(regions, masks=masks)
        return cls(
            name=str(path),
            sha256=file.sha256,
            categories=tuple(
                LvisCategory(id=number, name=name, frequency=frequency_of[number])
                for number, name in zip(category_ids, vocabulary, strict=True)
            ),
            labels=images.labels,
            regions=regions,
            notes=notes,
            sizes_hw=sizes.sizes_hw,
        )

    @property
    def image_ids(self) -> tuple[int, ...]:
        """The images that are evaluated, in the file's order."""
        return tuple(self.labels)

    @property
    def num_annotations(self) -> int:
        """Annotations that count, in those images."""
        return len(self.regions)

    def subset(self, image_ids: Collection[int]) -> Self:
        """Keep only some images and their annotations; every category stays."""
        wanted = set(image_ids)
        labels = {number: found for number, found in self.labels.items() if number in wanted}
        kept = np.isin(self.regions.image_ids, list(labels))
        return replace(self, labels=labels, regions=self.regions.select(kept))


def _counted(
    found: LvisRegions,
    *,
    image_ids: Collection[int],
    category_ids: Collection[int],
    strange_areas: Mapping[str, str],
    path: Path,
) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """Say which annotations count, (A,), with notes about the others, each for one reason."""
    _check_distinct(found.ids, path)
    counts = np.ones(len(found), np.bool_)
    notes = []

    def leave_out(against: NDArray[np.bool_], reason: str) -> None:
        places = np.flatnonzero(against & counts)
        if len(places):
            shown = few(places.tolist())
            notes.append(f"not scored: {len(places):,} annotations {reason} (annotations[{shown}])")
            counts[places] = False

    is_unlisted = ~np.isin(found.image_ids, list(image_ids))
    leave_out(is_unlisted, "of images that the file does not list")
    is_unlisted = ~np.isin(found.category_ids, list(category_ids))
    leave_out(is_unlisted, "of categories that it does not list")
    for position in np.flatnonzero(np.isnan(found.areas) & counts) if strange_areas else ():
        place = f"{path}: annotations[{position}]"
        if place in strange_areas:
            raise AnnotationError(
                f"{place} {strange_areas[place]}; wanted the area of its segment in square pixels,"
                " a number: LVIS AP tells small, medium and large regions apart by it."
            )
    has_area = (found.areas > 0) & (found.areas < np.inf)
    leave_out(~has_area, "whose area is not more than 0, as for lvis")
    is_strange = np.asarray((~np.isfinite(found.boxes_xywh)).any(axis=1))
    leave_out(is_strange, "without four finite numbers in bbox")
    if (counts & (found.ids == 0)).any():
        notes.append(
            "an annotation has the id 0, which lvis takes for none: predictions that find it count"
            " as wrong, as in lvis (number annotations from 1)"
        )
    return counts, tuple(notes)


def _check_lists(path: Path, outline: Outline) -> None:
    value = outline.skeleton
    if not isinstance(value, dict):
        raise AnnotationError(f"{path} holds a {type(value).__name__}, not an object. {INSTEAD}")
    for name in WANTED_LISTS:
        if not outline.has_list(name):
            raise AnnotationError(
                f"{path} has the keys {sorted(value)} and no list {name!r}. {INSTEAD}"
            )


def _checked(frequencies: Sequence[object], path: Path) -> list[Frequency]:
    for index, value in enumerate(frequencies):
        place = f"{path}: categories[{index}]"
        if value is None:
            raise AnnotationError(f"{place} lacks ['frequency']: not LVIS format. {INSTEAD}")
        if value not in FREQUENCIES:
            raise AnnotationError(f"{place} has the frequency {value!r}; wanted 'r', 'c' or 'f'.")
    return cast("list[Frequency]", frequencies)


def _check_distinct(ids: NDArray[np.int64], path: Path) -> None:
    """Refuse an id of two annotations: `lvis` would count the one twice, the other never."""
    places = np.flatnonzero(ids >= 0)
    values, counts = np.unique(ids[places], return_counts=True)
    if (counts > 1).any():
        repeated = values[counts > 1]
        first = np.flatnonzero(ids == repeated[0])[:2].tolist()
        raise AnnotationError(
            f"{path}: {len(repeated):,} ids of annotations occur twice; annotations[{first[0]}] and"
            f" annotations[{first[1]}] both have the id {repeated[0]}. Give each its own."
        )
