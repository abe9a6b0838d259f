"""Replaces annotated boxes by proposals."""

from dataclasses import replace
from functools import partial

import numpy as np

from regionspot.annotations.assembly import assemble, rows_of
from regionspot.annotations.box_checks import KEPT, Implausible
from regionspot.annotations.columns import RawAnnotations
from regionspot.annotations.json_entries import entry_text
from regionspot.annotations.proposals import ProposalTable
from regionspot.annotations.record import AnnotatedImages, RegionColumns
from regionspot.annotations.report import PROPOSALS, AnnotationReport, Reason, add_up, few
from regionspot.core.errors import AnnotationError, ConfigError
from regionspot.core.files import canonical_json, sha256_bytes


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
    (by `ImageRecord.resolved` if its size is not known), in descending order of score; equal scores
    keep the order of the file. Their class is unknown: labels are -1. The report counts what was
    clipped and dropped. Images without proposals stay, without regions.

    Args:
        annotated: The data set.
        proposals: Boxes for its images; see `read_proposals`.
        min_score: Minimum score of a proposal, 0 to 1.
        max_per_image: How many of an image's proposals are kept, the best; all when None. Those
            outside the image and repeats do not count.
        implausible: What to do with a file whose proposals look wrong as a whole.

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
            f" {few(proposals.image_ids.tolist())}, the annotated ones"
            f" {few(images.ids.tolist())}. Give the proposals of the same split, with the"
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
        show=partial(entry_text, proposals.path, None)  # of a list of entries
        if proposals.box_layout == "xywh"
        else lambda _: "",
    )
    records, report = assemble(
        raw,
        path=proposals.path,
        drop=frozenset({Reason.LOW_SCORE}),
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
            dropped=add_up(*proposals.dropped, *report.dropped),
        ),
    )


def without_regions(annotated: AnnotatedImages) -> AnnotatedImages:
    """Return a data set without regions, for SAM to find them in each image."""
    records, report = annotated.records, annotated.report
    boxes = f"{report.num_regions:,} annotated boxes"
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
            num_images_without_size=report.num_images_without_size,
            num_repeated_images=report.num_repeated_images,
            num_rotated_images=report.num_rotated_images,
            entries=PROPOSALS,
            notes=(*report.notes, f"regions are what SAM finds on a grid, in place of {boxes}"),
        ),
    )


def _check_options(min_score: float, max_per_image: int | None) -> None:
    if not 0 <= min_score <= 1:
        raise ConfigError(f"min_score is {min_score}; wanted a score from 0 to 1.")
    if max_per_image is not None and max_per_image < 1:
        raise ConfigError(
            f"max_per_image is {max_per_image}; wanted 1 or more, or nothing to keep all proposals."
        )
