"""Makes one class of several that cannot be told apart."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from regionspot.annotations.box_checks import is_repeated
from regionspot.annotations.report import Dropped, Reason
from regionspot.annotations.table import AnnotatedImages
from regionspot.core.files import canonical_json, sha256_bytes
from regionspot.core.vocabulary import Vocabulary


def with_merged_classes(
    annotated: AnnotatedImages, groups: Sequence[Sequence[int]]
) -> AnnotatedImages:
    """Return a data set in which each group of classes is its first one.

    The vocabulary loses the others, with their category ids and synonyms; their regions go over to
    the first. Boxes that thereby repeat one of their image are dropped and counted, as they are
    where a file repeats them.

    Args:
        annotated: The data set.
        groups: Groups of two or more classes, as indices into the vocabulary.
    """
    first_of = {later: group[0] for group in groups for later in group[1:]}
    kept = [label for label in range(len(annotated.vocabulary)) if label not in first_of]
    new_labels = np.full(len(annotated.vocabulary), -1, np.int32)
    new_labels[kept] = np.arange(len(kept))
    for later, first in first_of.items():
        new_labels[later] = new_labels[first]

    regions = annotated.records.regions
    labels = np.where(regions.labels < 0, regions.labels, new_labels[regions.labels])
    image_rows = np.repeat(
        np.arange(len(regions.starts) - 1, dtype=np.int32), np.diff(regions.starts)
    )
    stays = np.flatnonzero(~is_repeated(image_rows, labels, regions.boxes_xyxy))
    num_repeats = len(labels) - len(stays)
    report = annotated.report
    names = annotated.vocabulary.names
    merged_names = [[names[label] for label in group] for group in groups]
    identity = {"annotations": annotated.annotation_sha256, "merged": merged_names}
    return replace(
        annotated,
        vocabulary=Vocabulary(tuple(names[label] for label in kept)),
        category_ids=tuple(annotated.category_ids[label] for label in kept),
        synonyms=None
        if annotated.synonyms is None
        else tuple(annotated.synonyms[label] for label in kept),
        records=replace(
            annotated.records,
            regions=replace(
                regions,
                boxes_xyxy=regions.boxes_xyxy[stays],
                labels=labels[stays],
                starts=np.searchsorted(stays, regions.starts),
                prompts=None if regions.prompts is None else regions.prompts.take(stays),
                box_scores=None if regions.box_scores is None else regions.box_scores[stays],
            ),
        ),
        annotation_sha256=sha256_bytes(canonical_json(identity).encode()),
        report=replace(
            report,
            num_regions=len(stays),
            dropped=_with_repeats(report.dropped, num_repeats),
        ),
    )


def _with_repeats(dropped: tuple[Dropped, ...], count: int) -> tuple[Dropped, ...]:
    """Add repeats whose places in the file are not known any more."""
    if not count:
        return dropped
    known = next((one for one in dropped if one.reason is Reason.DUPLICATE), None)
    first = () if known is None else known.first
    added = Dropped(
        reason=Reason.DUPLICATE, count=count + (0 if known is None else known.count), first=first
    )
    others = [one for one in dropped if one.reason is not Reason.DUPLICATE]
    order = list(Reason)
    return tuple(sorted([*others, added], key=lambda one: order.index(one.reason)))
