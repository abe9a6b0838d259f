"""Puts proposals in the place of annotated boxes."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

import numpy as np

from regionspot.annotations.assembly import assemble, rows_of
from regionspot.annotations.box_checks import KEPT, REASONS, Implausible
from regionspot.annotations.columns import RawAnnotations
from regionspot.annotations.json_entries import entry_text
from regionspot.annotations.proposals import ProposalTable
from regionspot.annotations.report import PROPOSALS, AnnotationReport, Dropped, Reason
from regionspot.annotations.table import AnnotatedImages, RegionColumns
from regionspot.core.errors import AnnotationError, ConfigError
from regionspot.core.files import canonical_json, sha256_bytes

_NUM_EXAMPLES = 3


def with_proposals(
    annotated: AnnotatedImages,
    proposals: ProposalTable,
    *,
    min_score: float = 0.0,
    max_per_image: int | None = None,
    implausible: Implausible = "refuse",
) -> AnnotatedImages:
    """Return a data set whose regions are proposals instead of the annotated boxes.

    Images, vocabulary and file names stay. The regions of an image are its proposals, clipped to it
    (where its size is not known, by `ImageRecord.resolved`), the best first and equal ones in the
    order of their file; no class of theirs is known: labels are -1. The report counts what was
    clipped and dropped. An image without proposals stays, without regions.

    Args:
        annotated: The data set.
        proposals: Boxes for its images; see `read_proposals`.
        min_score: Score that a proposal must have, 0 to 1.
        max_per_image: How many of an image's proposals are kept, the best; all when None. Those
            outside the image and repeats do not count.
        implausible: Whether a file is refused whose proposals look wrong as a whole.

    Raises:
        AnnotationError: No proposal belongs to an image of the data set, or the proposals look
            wrong as a whole.
        ConfigError: An option is out of its range.
    """
    _check_options(min_score, max_per_image)
    images = annotated.records.images
    rows = rows_of(proposals.image_ids, images.ids)
    if (rows < 0).all():
        raise AnnotationError(
            f"{proposals.path}: none of the {len(rows):,} images that it has proposals for is among"
            f" the {len(images):,} annotated images of {annotated.name}: its image ids are"
            f" {_examples(proposals.image_ids.tolist())}, the annotated ones"
            f" {_examples(images.ids.tolist())}. Give the proposals of the same split, with the"
            " image ids of the annotations (not places in a list, counted from 0)."
        )
    num_regions = len(annotated.records.regions.labels)
    in_place = (
        f"regions are the proposals of {proposals.path.name}, in place of {num_regions:,} annotated"
        " boxes"
    )
    raw = RawAnnotations(
        images=images,
        vocabulary=annotated.vocabulary,
        category_ids=annotated.category_ids,
        image_rows=np.repeat(rows, np.diff(proposals.starts)),
        labels=np.full(len(proposals), -1, np.int32),
        boxes_xyxy=proposals.boxes_xyxy,
        faults=np.full(len(proposals), KEPT, np.int8),
        marks={Reason.LOW_SCORE: proposals.scores < np.float32(min_score)},
        sha256s=(),
        num_repeated_images=annotated.report.num_repeated_images,
        num_rotated_images=annotated.report.num_rotated_images,
        entries=PROPOSALS,
        notes=(*annotated.report.notes, in_place),
        scores=proposals.scores,
        positions=proposals.positions,
        box_layout=proposals.box_layout,
        show=_shower(proposals),
    )
    records, report = assemble(
        raw,
        path=proposals.path,
        drop={Reason.LOW_SCORE},
        max_per_image=max_per_image,
        implausible=implausible,
        dropped_before=proposals.dropped,
    )
    chosen = {"min_score": float(min_score), "max_per_image": max_per_image}
    identity = canonical_json({"file": proposals.sha256, **chosen})
    return replace(
        annotated,
        records=replace(records, rows=annotated.records.rows),
        proposals_sha256=sha256_bytes(identity.encode()),
        report=replace(
            report,
            num_annotations=proposals.num_read,
            dropped=_merged(proposals.dropped, report.dropped),
        ),
    )


def without_regions(annotated: AnnotatedImages) -> AnnotatedImages:
    """Return a data set whose regions nobody has looked for yet: SAM will, in each image.

    Images, vocabulary and file names stay.
    """
    records, report = annotated.records, annotated.report
    boxes = f"{report.num_regions:,} annotated boxes"
    note = f"regions are what SAM finds on a grid, in place of {boxes}"
    regions = RegionColumns(
        boxes_xyxy=np.zeros((0, 4), np.float32),
        labels=np.zeros(0, np.int32),
        box_scores=np.zeros(0, np.float32),
        starts=np.zeros(len(records.images) + 1, np.int64),
        box_unit="pixel",
        box_layout="xyxy",
    )
    return replace(
        annotated,
        records=replace(records, regions=regions),
        report=AnnotationReport(
            num_images=report.num_images,
            num_images_without_regions=0,
            num_images_without_size=report.num_images_without_size,
            num_repeated_images=report.num_repeated_images,
            num_rotated_images=report.num_rotated_images,
            num_annotations=0,
            num_regions=0,
            num_crowds=0,
            num_groups=0,
            num_depictions=0,
            num_clipped=0,
            dropped=(),
            entries=PROPOSALS,
            notes=(*report.notes, note),
        ),
    )


def _shower(proposals: ProposalTable) -> Callable[[int], str]:
    if proposals.box_layout == "xywh":  # a list of entries
        return partial(entry_text, proposals.path, None)
    return lambda _: ""


def _check_options(min_score: float, max_per_image: int | None) -> None:
    if not 0 <= min_score <= 1:
        raise ConfigError(f"min_score is {min_score}; wanted a score from 0 to 1.")
    if max_per_image is not None and max_per_image < 1:
        raise ConfigError(
            f"max_per_image is {max_per_image}; wanted 1 or more, or nothing to keep all proposals."
        )


def _merged(*counts: Iterable[Dropped]) -> tuple[Dropped, ...]:
    """Add up what was dropped for the same reason."""
    merged = []
    entries = [entry for of_step in counts for entry in of_step]
    for reason in REASONS:
        same = [entry for entry in entries if entry.reason == reason]
        if same:
            first = sorted(place for entry in same for place in entry.first)[:_NUM_EXAMPLES]
            count = sum(entry.count for entry in same)
            merged.append(Dropped(reason=reason, count=count, first=tuple(first)))
    return tuple(merged)


def _examples(ids: list[int]) -> str:
    more = ", ..." if len(ids) > _NUM_EXAMPLES else ""
    return ", ".join(map(str, ids[:_NUM_EXAMPLES])) + more
