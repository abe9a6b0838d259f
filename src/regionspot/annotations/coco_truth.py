"""COCO ground truth with masks: which annotations of a file count for mask AP, as in `pycocotools`.

Box AP takes its regions from the cache, or from an annotation file as caching reads it. Masks are
not in that: a cache holds SAM's masks, not the annotated ones. So mask AP reads the file itself.

Shape letter: A annotations.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from regionspot.annotations.assembly import vocabulary_of
from regionspot.annotations.box_checks import DropReasons, code_of
from regionspot.annotations.coco_entries import AnnotationEntries, CategoryEntries
from regionspot.annotations.columns import TextColumn
from regionspot.annotations.detect_format import WANTED_LISTS
from regionspot.annotations.json_entries import Entries, read_lists
from regionspot.annotations.json_lists import JsonFile
from regionspot.annotations.lvis import LvisFigures
from regionspot.annotations.opening import FileRole
from regionspot.annotations.report import Reason, few
from regionspot.annotations.truth_masks import ImageSizes, encoded_masks
from regionspot.core.errors import AnnotationError
from regionspot.core.rle_masks import RleMasks


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CocoMasks:
    """The annotations of a file in COCO format and their masks; row ``i`` is annotation ``i``."""

    path: Path
    """The file."""
    sizes_hw: dict[int, tuple[int, int]]
    """Height and width of each image in pixels, by id."""
    category_ids: tuple[int, ...]
    """The data set's own id of each class."""
    class_names: tuple[str, ...]
    """The name of each class."""
    image_ids: NDArray[np.int64]
    """The image of each annotation, (A,)."""
    region_category_ids: NDArray[np.int64]
    """Its category, (A,)."""
    boxes_xywh: NDArray[np.float64]
    """The box around its mask as (x, y, width, height), (A, 4), pixels."""
    areas: NDArray[np.float64]
    """Its area in square pixels, (A,): the file's, or that of the mask if the file has none."""
    is_crowd: NDArray[np.bool_]
    """Whether it stands for many objects (``iscrowd``), (A,)."""
    masks: RleMasks
    """Its mask, A in all."""
    notes: tuple[str, ...]
    """Which annotations of the file do not count, and why, one sentence per reason."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file in COCO format, or in LVIS format as if it were COCO's.

        Args:
            path: The file, as given by ``--annotations``.

        Raises:
            MissingFileError: There is no such file.
            AnnotationError: The file is damaged or lacks a list, or an annotation that counts has
                no mask that fits its image; names list and place.
            VocabularyError: A class name is empty or occurs twice.
            MissingExtraError: pycocotools is not installed.
        """
        file = JsonFile(path, role=FileRole(noun="annotation file", option="--annotations"))
        images, categories = ImageSizes(), CategoryEntries()
        annotations, figures = AnnotationEntries("mask"), LvisFigures()
        readers: dict[str | None, Sequence[Entries[Any]]] = {
            "images": [images],
            "categories": [categories],
            "annotations": [annotations, figures],
        }
        outline = read_lists(file, readers)
        for name in WANTED_LISTS:
            if not outline.has_list(name):
                raise AnnotationError(
                    f"{path} has no list {name!r}; mask AP needs COCO ground truth with the lists"
                    f" {', '.join(WANTED_LISTS)}."
                )
        for entries in (categories, images, annotations, figures):
            entries.check()
        vocabulary, category_ids = vocabulary_of(categories.ids, categories.names, path)
        image_ids = annotations.columns.pop("image_ids")
        region_category_ids = annotations.columns.pop("category_ids")
        is_unlisted = ~np.isin(image_ids, list(images.sizes_hw))
        is_unlisted |= ~np.isin(region_category_ids, category_ids)
        places = np.flatnonzero(~is_unlisted)
        masks = encoded_masks(
            cast("TextColumn", annotations.prompts()),
            places.tolist(),
            image_ids[places].tolist(),
            sizes_hw=images.sizes_hw,
            path=path,
        )
        _check_crowds(annotations.columns.pop("faults"), places, path)
        areas = figures.columns.pop("areas")[places]
        return cls(
            path=path,
            sizes_hw=images.sizes_hw,
            category_ids=category_ids,
            class_names=tuple(vocabulary),
            image_ids=image_ids[places],
            region_category_ids=region_category_ids[places],
            boxes_xywh=masks.boxes_xywh(),
            areas=np.where(np.isfinite(areas), areas, masks.areas()),
            is_crowd=annotations.columns.pop("is_crowd")[places],
            masks=masks,
            notes=_notes(np.flatnonzero(is_unlisted).tolist()),
        )


def _check_crowds(faults: DropReasons, places: NDArray[np.int64], path: Path) -> None:
    odd = places[faults[places] == code_of(Reason.ODD_CROWD)]
    if len(odd):
        raise AnnotationError(
            f"{path}: annotations[{odd[0]}] has an iscrowd that is neither 0 nor 1; predictions in"
            " a crowd count neither way, so it has to be clear."
        )


def _notes(unlisted: list[int]) -> tuple[str, ...]:
    note = (
        f"not scored: {len(unlisted):,} annotations of images or categories that the file does not"
        f" list (annotations[{few(unlisted)}])"
    )
    return (note,) if unlisted else ()
