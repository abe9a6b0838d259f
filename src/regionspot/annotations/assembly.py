"""Builds records from a file's raw content: judges each box once, for all formats, and counts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from regionspot.annotations.raw import RawAnnotations, RawCategory, RawImage
from regionspot.annotations.record import AnnotatedImages, ImageRecord
from regionspot.annotations.report import AnnotationReport, Dropped, Reason
from regionspot.core.errors import AnnotationError, VocabularyError
from regionspot.core.geometry import box_area, clip_boxes_xyxy, xywh_to_xyxy
from regionspot.core.vocabulary import Vocabulary

_NUM_EXAMPLES = 3
_KEPT = -1
_REASONS = tuple(Reason)
_HALF_OF_FLOAT32 = float(np.finfo(np.float32).max) / 2


Crowds = Literal["keep", "drop"]
"""What to do with annotations that cover a crowd."""


def assemble(
    raw: RawAnnotations,
    *,
    path: Path,
    format_name: str,
    images_dir: Path,
    name: str,
    crowds: Crowds,
) -> AnnotatedImages:
    """Turn raw annotations into records, dropping what is no region and clipping the rest.

    Args:
        raw: A file's content.
        path: The file, for messages.
        format_name: Its format, as given to ``--annotations.format``.
        images_dir: Folder of the images.
        name: Name of the data set.
        crowds: Whether crowds are regions.

    Raises:
        AnnotationError: Image or category ids contradict each other, or nothing can be used.
        VocabularyError: A class name is empty or occurs twice.
    """
    images, num_repeated = _distinct_images(raw.images, path)
    vocabulary, category_ids = _vocabulary(raw.categories, path)
    image_rows = _rows_of(raw.image_ids, [image.image_id for image in images])
    labels = _rows_of(raw.category_ids, category_ids)
    verdicts = _judge_entries(raw, image_rows, labels, drop_crowds=crowds == "drop")
    if len(verdicts) and (verdicts == _REASONS.index(Reason.NO_BOX)).all():
        raise AnnotationError(
            f"{path}: none of its {len(verdicts):,} annotations has a bbox of four numbers; regions"
            " are boxes. Give a file with boxes ([x, y, width, height] in pixels)."
        )
    builder = _RecordBuilder(boxes_xywh=raw.boxes_xywh, labels=labels, verdicts=verdicts)
    records = builder.build(images, image_rows)
    report = AnnotationReport(
        num_images=len(records),
        num_images_without_regions=sum(len(record.labels) == 0 for record in records),
        num_repeated_images=num_repeated,
        num_annotations=len(verdicts),
        num_regions=int((verdicts == _KEPT).sum()),
        num_crowds=int((raw.is_crowd & (verdicts == _KEPT)).sum()),
        num_clipped=builder.num_clipped,
        dropped=_count(verdicts),
    )
    return AnnotatedImages(
        name=name,
        format=format_name,
        images_dir=images_dir,
        vocabulary=vocabulary,
        category_ids=category_ids,
        records=records,
        annotation_sha256=raw.sha256,
        report=report,
    )


def _distinct_images(images: Sequence[RawImage], path: Path) -> tuple[list[RawImage], int]:
    by_id: dict[int, RawImage] = {}
    for image in images:
        known = by_id.setdefault(image.image_id, image)
        if known != image:
            raise AnnotationError(
                f"{path}: two images have the id {image.image_id}: {known.file_name}"
                f" {known.size_hw} and {image.file_name} {image.size_hw}. Give each"
                " image its own id."
            )
    if not by_id:
        raise AnnotationError(f"{path} lists no image. Give a file with at least one image.")
    return list(by_id.values()), len(images) - len(by_id)


def _vocabulary(
    categories: Sequence[RawCategory], path: Path
) -> tuple[Vocabulary, tuple[int, ...]]:
    by_id: dict[int, RawCategory] = {}
    for category in categories:
        known = by_id.setdefault(category.category_id, category)
        if known != category:
            raise AnnotationError(
                f"{path}: the category id {category.category_id} stands for {known.name!r} and for"
                f" {category.name!r}. Give each category its own id."
            )
    category_ids = tuple(sorted(by_id))
    try:
        vocabulary = Vocabulary.from_names(by_id[number].name for number in category_ids)
    except VocabularyError as error:
        raise VocabularyError(f"{path}: categories in the order of their ids: {error}") from error
    return vocabulary, category_ids


def _rows_of(ids: NDArray[np.int64], known_ids: Sequence[int]) -> NDArray[np.int64]:
    """Return the position of each id in ``known_ids``, or -1 where it is not among them."""
    known = np.asarray(known_ids, np.int64)
    order = np.argsort(known, kind="stable")
    places = np.searchsorted(known, ids, sorter=order)
    rows = order[np.minimum(places, len(known) - 1)]
    return np.where(known[rows] == ids, rows, -1)


def _judge_entries(
    raw: RawAnnotations,
    image_rows: NDArray[np.int64],
    labels: NDArray[np.int64],
    *,
    drop_crowds: bool,
) -> NDArray[np.int8]:
    """Give each annotation `_KEPT` or the index of the first reason against it, image aside."""
    sizes_wh = np.where(np.isfinite(raw.boxes_xywh[:, 2:]), raw.boxes_xywh[:, 2:], 1)
    against = {
        Reason.UNKNOWN_IMAGE: image_rows < 0,
        Reason.UNKNOWN_CATEGORY: labels < 0,
        Reason.CROWD: raw.is_crowd & drop_crowds,
        Reason.NO_BOX: ~raw.has_box,
        # What float32 cannot add up counts as infinite: boxes are float32 everywhere else.
        Reason.NOT_FINITE: ~(np.abs(raw.boxes_xywh) < _HALF_OF_FLOAT32).all(axis=1),
        Reason.NEGATIVE_SIZE: (sizes_wh < 0).any(axis=1),
        Reason.ZERO_AREA: (sizes_wh == 0).any(axis=1),
    }
    verdicts = np.full(len(image_rows), _KEPT, np.int8)
    for reason, applies in against.items():
        verdicts[applies & (verdicts == _KEPT)] = _REASONS.index(reason)
    return verdicts


@dataclass(kw_only=True)
class _RecordBuilder:
    """Builds each image's record and completes ``verdicts`` with what depends on the image."""

    boxes_xywh: NDArray[np.float64]
    labels: NDArray[np.int64]
    verdicts: NDArray[np.int8]
    num_clipped: int = 0

    def build(self, images: Sequence[RawImage], image_rows: NDArray[np.int64]) -> list[ImageRecord]:
        """Build the records, in the order of ``images``; regions in the order of the file."""
        kept = np.flatnonzero(self.verdicts == _KEPT)
        kept = kept[np.argsort(image_rows[kept], kind="stable")]
        ends = np.searchsorted(image_rows[kept], np.arange(len(images)), side="right")
        starts = np.concatenate([[0], ends[:-1]])
        return [
            self._record(image, kept[start:end])
            for image, start, end in zip(images, starts, ends, strict=True)
        ]

    def _record(self, image: RawImage, entries: NDArray[np.intp]) -> ImageRecord:
        boxes_xyxy = xywh_to_xyxy(self.boxes_xywh[entries].astype(np.float32))
        # A sliver so thin that float32 cannot tell its sides apart has no area either.
        boxes_xyxy, entries = self._drop(
            boxes_xyxy, entries, box_area(boxes_xyxy) <= 0, Reason.ZERO_AREA
        )
        clipped_xyxy = clip_boxes_xyxy(boxes_xyxy, image.size_hw) + 0.0  # no negative zeros
        outside = box_area(clipped_xyxy) <= 0
        reached_over = (clipped_xyxy != boxes_xyxy).any(axis=1) & ~outside
        boxes_xyxy, kept = self._drop(clipped_xyxy, entries, outside, Reason.OUTSIDE)
        reached_over = reached_over[~outside]
        repeated = _is_repeated(boxes_xyxy, self.labels[kept])
        self.num_clipped += int((reached_over & ~repeated).sum())
        boxes_xyxy, kept = self._drop(boxes_xyxy, kept, repeated, Reason.DUPLICATE)
        return ImageRecord(
            key=image.key,
            image_id=image.image_id,
            file_name=image.file_name,
            size_hw=image.size_hw,
            boxes_xyxy=boxes_xyxy,
            labels=self.labels[kept],
        )

    def _drop(
        self,
        boxes_xyxy: NDArray[np.float32],
        entries: NDArray[np.intp],
        applies: NDArray[np.bool_],
        reason: Reason,
    ) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
        self.verdicts[entries[applies]] = _REASONS.index(reason)
        return boxes_xyxy[~applies], entries[~applies]


def _is_repeated(boxes_xyxy: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Say of each region whether an earlier one has the same box and label, (R,)."""
    seen: set[tuple[bytes, int]] = set()
    repeated = np.zeros(len(labels), np.bool_)
    for row, label in enumerate(labels.tolist()):
        identity = (boxes_xyxy[row].tobytes(), label)
        repeated[row] = identity in seen
        seen.add(identity)
    return repeated


def _count(verdicts: NDArray[np.int8]) -> tuple[Dropped, ...]:
    counted = []
    for index, reason in enumerate(_REASONS):
        places = np.flatnonzero(verdicts == index)
        if len(places):
            first = tuple(places[:_NUM_EXAMPLES].tolist())
            counted.append(Dropped(reason=reason, count=len(places), first=first))
    return tuple(counted)
