"""Builds records from a file's raw content, for all formats.

Ids are turned into rows of columns, boxes are checked against their images, and everything dropped
is counted.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regionspot.annotations.box_checks import (
    KEPT,
    MAX_EXAMINED,
    REASONS,
    DropReasons,
    ExaminedBoxes,
    Implausible,
    blocks_of_whole_images,
    code_of,
    count_dropped,
    first_reasons,
    hardly_any_fits,
    implausible_error,
    is_repeated,
    wrong_units_or_order,
)
from regionspot.annotations.columns import ImageColumns, RawAnnotations
from regionspot.annotations.record import RecordTable, RegionColumns, check_names
from regionspot.annotations.report import PROPOSALS, AnnotationReport, Dropped, Reason, few
from regionspot.core.errors import AnnotationError, VocabularyError
from regionspot.core.geometry import box_area, clip_boxes_xyxy
from regionspot.core.vocabulary import Vocabulary


def assemble(
    raw: RawAnnotations,
    *,
    path: Path,
    drop: frozenset[Reason],
    max_per_image: int | None = None,
    implausible: Implausible = "refuse",
    chose_classes: bool = False,
    dropped_before: Sequence[Dropped] = (),
) -> tuple[RecordTable, AnnotationReport]:
    """Turn raw annotations into records, dropping invalid regions and clipping the rest.

    Args:
        raw: A file's content.
        path: The file, for messages.
        drop: Which of ``raw.marks`` are dropped.
        max_per_image: How many regions an image may have; the first are kept. All when None.
        implausible: What to do with a file whose annotations look wrong as a whole.
        chose_classes: Whether an option gave the list of classes.
        dropped_before: Entries of the file that are no longer in ``raw``.

    Raises:
        AnnotationError: An image is invalid, or all annotations are, or nearly all.
    """
    drop_reasons = _drop_reasons_of(raw, drop)
    _check_any(drop_reasons, path)
    boxes_doubt = _doubt_about_boxes(raw, drop_reasons, dropped_before)
    sorter = _RegionSorter(raw=raw, drop_reasons=drop_reasons, max_per_image=max_per_image)
    regions = sorter.sort()
    records = RecordTable(images=raw.images, regions=regions, rows=range(len(raw.images)))
    check_names(records)
    is_kept = drop_reasons == KEPT
    dropped = count_dropped(drop_reasons, raw.positions)
    has_region = np.diff(regions.starts) > 0
    fit_doubt = hardly_any_fits(
        *dropped_before,
        *dropped,
        num_annotations=len(drop_reasons) + sum(entry.count for entry in dropped_before),
        share_of_images_with_regions=float(has_region.mean()),
        chose_classes=chose_classes,
        entries=raw.entries,
        show=raw.show,
    )
    crowds_doubt, crowds_note = _about_crowds(raw, drop)
    doubts = [doubt for doubt in (boxes_doubt, fit_doubt, crowds_doubt) if doubt]
    if doubts and implausible == "refuse":
        raise _refused(doubts[0], raw, path)

    num_marked = {reason: int((applies & is_kept).sum()) for reason, applies in raw.marks.items()}
    return records, AnnotationReport(
        num_images=len(records),
        num_images_without_regions=int((~has_region).sum()),
        num_images_without_size=len(records) if raw.images.sizes_hw is None else 0,
        num_repeated_images=raw.num_repeated_images,
        num_rotated_images=raw.num_rotated_images,
        num_annotations=len(drop_reasons),
        num_regions=len(regions.labels),
        num_crowds=num_marked.get(Reason.CROWD, 0),
        num_groups=num_marked.get(Reason.GROUP, 0),
        num_depictions=num_marked.get(Reason.DEPICTION, 0),
        num_clipped=sorter.num_clipped,
        dropped=dropped,
        entries=raw.entries,
        notes=(*raw.notes, *doubts, *([crowds_note] if crowds_note else [])),
    )


_NEEDED = {
    Reason.NO_BOX: "has a bbox of four numbers; regions are boxes. Give a file with boxes ([x, y,"
    " width, height] in pixels).",
    Reason.NO_MASK: "has a segmentation to prompt SAM with. Give a file with masks, or leave"
    " --annotations.prompt out to use boxes.",
    Reason.NO_POINTS: "has points to prompt SAM with. Give a file with point_coords or keypoints,"
    " or leave --annotations.prompt out to use boxes.",
}


def _check_any(drop_reasons: DropReasons, path: Path) -> None:
    for reason, needed in _NEEDED.items():
        if len(drop_reasons) and (drop_reasons == code_of(reason)).all():
            raise AnnotationError(f"{path}: none of its {len(drop_reasons):,} annotations {needed}")


def _doubt_about_boxes(
    raw: RawAnnotations, drop_reasons: DropReasons, dropped_before: Sequence[Dropped]
) -> str | None:
    rows = np.flatnonzero(drop_reasons == KEPT)
    step = max(1, -(-len(rows) // MAX_EXAMINED))
    rows = rows[::step]
    limits_hw: NDArray[np.integer | np.floating] | None = None
    if raw.box_unit == "relative":
        limits_hw = np.ones((len(rows), 2))
    elif raw.images.sizes_hw is not None:
        limits_hw = raw.images.sizes_hw[raw.image_rows[rows]]
    num_inverted = int((drop_reasons == code_of(Reason.NEGATIVE_SIZE)).sum())
    num_inverted += sum(e.count for e in dropped_before if e.reason == Reason.NEGATIVE_SIZE)
    return wrong_units_or_order(
        ExaminedBoxes(
            boxes_xyxy=raw.boxes_xyxy[rows],
            limits_hw=limits_hw,
            layout=raw.box_layout,
            is_relative=raw.box_unit == "relative",
            num_inverted=num_inverted // step,
        )
    )


def _about_crowds(raw: RawAnnotations, drop: frozenset[Reason]) -> tuple[str | None, str | None]:
    """Return a doubt about the file, or a note, if all annotations are crowds."""
    is_crowd = raw.marks.get(Reason.CROWD)
    if is_crowd is None or not len(is_crowd) or not is_crowd.all():
        return None, None
    found = (
        f"all {len(is_crowd):,} annotations are crowds (iscrowd 1). Most likely they are single"
        " objects: CVAT, for one, marks every mask drawn with a brush as a crowd"
    )
    if Reason.CROWD in drop:
        return (
            f"{found}. Leave --annotations.crowds at keep, or set iscrowd to 0 in the file.",
            None,
        )
    return None, f"{found}; they are kept as regions like any other"


def _refused(doubt: str, raw: RawAnnotations, path: Path) -> AnnotationError:
    if str(Reason.UNKNOWN_IMAGE) in doubt:
        doubt += f"\nThe image ids that are listed are {few(raw.images.ids.tolist(), end='.')}"
    if str(Reason.UNKNOWN_CATEGORY) in doubt:
        pairs = zip(raw.category_ids, raw.vocabulary, strict=True)
        names = [f"{number} ({name})" for number, name in pairs]
        doubt += f"\nThe categories that are listed are {few(names, end='.')}"
    return implausible_error(
        path, doubt, "proposals" if raw.entries == PROPOSALS else "annotations"
    )


def _drop_reasons_of(raw: RawAnnotations, drop: frozenset[Reason]) -> DropReasons:
    """Return the first reason against each annotation that does not depend on its image."""
    against = {Reason.UNKNOWN_IMAGE: raw.image_rows < 0}
    if raw.scores is None:  # the class of proposals is unknown
        against[Reason.UNKNOWN_CATEGORY] = raw.labels < 0
    against |= {reason: raw.marks[reason] for reason in REASONS if reason in drop}
    drop_reasons = first_reasons(np.full(len(raw.image_rows), KEPT, np.int8), against)
    return np.where(drop_reasons == KEPT, raw.faults, drop_reasons)


@dataclass(kw_only=True)
class _RegionSorter:
    """Sorts regions by image, and adds the ``drop_reasons`` that depend on the image."""

    raw: RawAnnotations
    drop_reasons: DropReasons
    max_per_image: int | None
    num_clipped: int = 0

    def sort(self) -> RegionColumns:
        """Return the regions, by image; in the order of the file within an image."""
        entries = np.flatnonzero(self.drop_reasons == KEPT)
        rows = self.raw.image_rows[entries]
        if (rows[1:] < rows[:-1]).any():
            entries = entries[np.argsort(rows, kind="stable")]
            rows = self.raw.image_rows[entries]
        boxes_xyxy = np.empty((len(entries), 4), np.float32)
        num_regions = 0
        for start, stop in blocks_of_whole_images(rows):
            kept, kept_xyxy = self._fit(entries[start:stop])
            own = slice(num_regions, num_regions + len(kept))
            # In place: no more are kept than were checked.
            boxes_xyxy[own], entries[own] = kept_xyxy, kept
            rows[own] = self.raw.image_rows[kept]
            num_regions = own.stop
        entries, rows = entries[:num_regions], rows[:num_regions]
        return RegionColumns(
            boxes_xyxy=boxes_xyxy[:num_regions],
            labels=self.raw.labels[entries],
            box_scores=None if self.raw.scores is None else self.raw.scores[entries],
            prompts=None if self.raw.prompts is None else self.raw.prompts.take(entries),
            starts=np.searchsorted(rows, np.arange(len(self.raw.images) + 1, dtype=np.int32)),
            box_unit=self.raw.box_unit,
            box_layout=self.raw.box_layout,
        )

    def _fit(self, entries: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """Clip the boxes of whole images; return which are left, and their boxes."""
        boxes_xyxy = self.raw.boxes_xyxy[entries]
        # A box so thin that its sides are equal in float32 has no area either.
        has_area = _has_area(boxes_xyxy)
        self._drop(entries[~has_area], Reason.ZERO_AREA)
        entries, boxes_xyxy = entries[has_area], boxes_xyxy[has_area]
        clipped_xyxy = clip_boxes_xyxy(boxes_xyxy, self._limits_hw(entries)) + 0.0  # no -0.0
        is_inside = _has_area(clipped_xyxy)
        self._drop(entries[~is_inside], Reason.OUTSIDE)
        is_clipped = (clipped_xyxy != boxes_xyxy).any(axis=1)[is_inside]
        entries, boxes_xyxy = entries[is_inside], clipped_xyxy[is_inside]
        repeats = is_repeated(self.raw.image_rows[entries], self.raw.labels[entries], boxes_xyxy)
        self._drop(entries[repeats], Reason.DUPLICATE)
        is_kept = ~repeats
        if self.max_per_image is not None:
            is_kept[~repeats] = self._ranks(entries[~repeats]) < self.max_per_image
            self._drop(entries[~repeats & ~is_kept], Reason.TOO_MANY)
        self.num_clipped += int((is_clipped & is_kept).sum())
        return entries[is_kept], boxes_xyxy[is_kept]

    def _ranks(self, entries: NDArray[np.intp]) -> NDArray[np.intp]:
        """Number the entries of each image from 0."""
        rows = self.raw.image_rows[entries]
        return np.arange(len(rows)) - np.searchsorted(rows, rows)

    def _limits_hw(self, entries: NDArray[np.intp]) -> NDArray[np.integer | np.floating]:
        """Return the lower and right limit of boxes in each annotation's image."""
        if self.raw.images.sizes_hw is not None:
            return self.raw.images.sizes_hw[self.raw.image_rows[entries]]
        return np.array([1, 1] if self.raw.box_unit == "relative" else [np.inf, np.inf])

    def _drop(self, entries: NDArray[np.intp], reason: Reason) -> None:
        self.drop_reasons[entries] = code_of(reason)


def _has_area(boxes_xyxy: NDArray[np.float32]) -> NDArray[np.bool_]:
    with np.errstate(over="ignore"):  # an area beyond float32 is one
        return box_area(boxes_xyxy) > 0


_BLOCK = 1 << 16


def rows_of(ids: NDArray[np.int64], known_ids: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return the position of each id in ``known_ids`` (not empty); -1 if it is not there."""
    order = np.argsort(known_ids, kind="stable").astype(np.int32)
    ascending = known_ids[order]
    rows = np.empty(len(ids), np.int32)
    for start in range(0, len(ids), _BLOCK):  # bounds the memory, not the result
        block = ids[start : start + _BLOCK]
        places = np.minimum(np.searchsorted(ascending, block), len(ascending) - 1)
        rows[start : start + _BLOCK] = np.where(ascending[places] == block, order[places], -1)
    return rows


def distinct_images(images: ImageColumns, path: Path) -> tuple[ImageColumns, int]:
    """Remove images that are listed again, identically, and count them; refuse shared ids."""
    if not len(images):
        raise AnnotationError(f"{path} lists no image. Give a file with at least one image.")
    _, first_rows, groups = np.unique(images.ids, return_index=True, return_inverse=True)
    num_repeated = len(images) - len(first_rows)
    if not num_repeated:
        return images, 0
    first_of = first_rows[groups]
    for row in np.flatnonzero(first_of != np.arange(len(images))).tolist():
        known, again = _described(images, int(first_of[row])), _described(images, row)
        if known != again:
            raise AnnotationError(
                f"{path}: two images have the id {images.ids[row]}: {known} and {again}. Give each"
                " image its own id."
            )
    rows = np.sort(first_rows)
    return ImageColumns(
        ids=images.ids[rows],
        keys=images.keys.take(rows),
        file_names=images.file_names.take(rows),
        sizes_hw=None if images.sizes_hw is None else images.sizes_hw[rows],
    ), num_repeated


def _described(images: ImageColumns, row: int) -> str:
    size_hw = "" if images.sizes_hw is None else f" {tuple(images.sizes_hw[row].tolist())}"
    return f"{images.file_names[row]}{size_hw}"


def vocabulary_of(
    ids: Sequence[int], names: Sequence[str], path: Path
) -> tuple[Vocabulary, tuple[int, ...]]:
    """Return the class names in the order of their category ids, and these ids."""
    by_id: dict[int, str] = {}
    for number, name in zip(ids, names, strict=True):
        known = by_id.setdefault(number, name)
        if known != name:
            raise AnnotationError(
                f"{path}: the category id {number} stands for {known!r} and for {name!r}. Give each"
                " category its own id."
            )
    category_ids = tuple(sorted(by_id))
    try:
        vocabulary = Vocabulary.from_names(by_id[number] for number in category_ids)
    except VocabularyError as error:
        raise VocabularyError(
            f"{path}: categories in the order of their ids: {error}{_namesakes(by_id)}"
        ) from error
    return vocabulary, category_ids


def synonyms_of(
    vocabulary: Vocabulary, names: Sequence[str], synonyms: Sequence[Sequence[str] | None]
) -> tuple[tuple[str, ...], ...] | None:
    """Return all names of each class, its own first and none twice; None if the file lists none.

    ``names`` and their ``synonyms`` are in the order of the file; blank synonyms are ignored.
    """
    if all(others is None for others in synonyms):
        return None
    by_name = dict(zip(names, synonyms, strict=True))
    return tuple(
        tuple(dict.fromkeys([name, *(other for other in by_name[name] or () if other.strip())]))
        for name in vocabulary
    )


def _namesakes(by_id: dict[int, str]) -> str:
    repeated = [name for name, count in Counter(by_id.values()).items() if count > 1]
    if not repeated:
        return ""
    ids = [str(number) for number in sorted(by_id) if by_id[number] == repeated[0]]
    return f" The categories {' and '.join(ids)} are named {repeated[0]!r}."
