"""Numbers class names, chooses which of them make the vocabulary, and merges equivalent ones.

A class without a region competes with all others when regions are named, although nothing was ever
learnt about it. Exports have such classes: Roboflow's list the parent of all classes, at id 0.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from regionspot.annotations.box_checks import is_repeated
from regionspot.annotations.columns import RawAnnotations
from regionspot.annotations.record import AnnotatedImages
from regionspot.annotations.report import Dropped, Reason, add_up, few
from regionspot.core.errors import ConfigError, VocabularyError
from regionspot.core.files import canonical_json, sha256_bytes
from regionspot.core.vocabulary import Vocabulary

Classes = Literal["annotated"] | tuple[str, ...]
"""The classes that have a region, or those of these names."""

_NUM_NAMED = 10


class ClassNames:
    """The class names of a format without category ids.

    Args:
        path: A list of them, one per line; None to number them in order of appearance.
    """

    def __init__(self, path: Path | None) -> None:
        self._listed = None if path is None else Vocabulary.from_file(path)
        self._labels = {name: label for label, name in enumerate(self._listed or ())}

    def label_of(self, name: str) -> int:
        """Return the label of a name; -1 if there is a list without it."""
        if self._listed is None:
            return self._labels.setdefault(name, len(self._labels))
        return self._labels.get(name, -1)

    def vocabulary(self, path: Path) -> Vocabulary:
        """Return all names, in the order of their labels; ``path`` is the annotation file."""
        try:
            return self._listed or Vocabulary.from_names(self._labels)
        except VocabularyError as error:
            raise VocabularyError(f"{path}: labels in order of appearance: {error}") from error


def mark_other_classes(raw: RawAnnotations, names: Sequence[str], path: Path) -> RawAnnotations:
    """Mark annotations whose class is not among ``names``, which must be names of the file."""
    unknown = [name for name in names if name not in raw.vocabulary.names]
    if unknown or not names:
        found = f"{unknown[0]!r}, which {path} does not list" if unknown else "no name"
        raise ConfigError(
            f"--annotations.classes has {found}; wanted annotated, or a list of names of"
            f" {_named(raw.vocabulary.names)}."
        )
    labels = [raw.vocabulary.index_of(name) for name in names]
    is_other = (raw.labels >= 0) & ~np.isin(raw.labels, labels)
    return replace(raw, marks={**raw.marks, Reason.OTHER_CLASS: is_other})


def with_classes(annotated: AnnotatedImages, classes: Classes | None) -> AnnotatedImages:
    """Return a data set with some of its classes, in the order of the file.

    Args:
        annotated: The data set; all its regions are of these classes.
        classes: The classes to keep. All if None: then a note names those without a region.
    """
    counts = np.bincount(annotated.records.regions.labels, minlength=len(annotated.vocabulary))
    if classes is None:
        return _with_note(annotated, counts)
    if classes == "annotated":
        kept = np.flatnonzero(counts).tolist()
        if not kept:
            raise ConfigError(
                f"--annotations.classes is annotated, but no class of {annotated.name} has a"
                " region. Leave it out."
            )
    else:
        kept = [label for label, name in enumerate(annotated.vocabulary) if name in classes]
    return _with_kept(annotated, kept, _new_labels(annotated, kept))


def with_merged_classes(
    annotated: AnnotatedImages, groups: Sequence[Sequence[int]]
) -> AnnotatedImages:
    """Return a data set in which each group of classes is merged into its first class.

    The vocabulary loses the others, with their category ids and synonyms; their regions get the
    first one's label. Boxes that thereby repeat one of their image are dropped and counted.

    Args:
        annotated: The data set.
        groups: Groups of two or more classes, as indices into the vocabulary.
    """
    first_of = {later: group[0] for group in groups for later in group[1:]}
    kept = [label for label in range(len(annotated.vocabulary)) if label not in first_of]
    new_labels = _new_labels(annotated, kept)
    for later, first in first_of.items():
        new_labels[later] = new_labels[first]
    merged, report = _with_kept(annotated, kept, new_labels), annotated.report
    regions = merged.records.regions
    num_images = len(regions.starts) - 1
    image_rows = np.repeat(np.arange(num_images, dtype=np.int32), np.diff(regions.starts))
    stays = np.flatnonzero(~is_repeated(image_rows, regions.labels, regions.boxes_xyxy))
    regions = replace(
        regions,
        boxes_xyxy=regions.boxes_xyxy[stays],
        labels=regions.labels[stays],
        starts=np.searchsorted(stays, regions.starts),
        prompts=None if regions.prompts is None else regions.prompts.take(stays),
        box_scores=None if regions.box_scores is None else regions.box_scores[stays],
    )
    num_repeats = len(image_rows) - len(stays)
    repeats = Dropped(reason=Reason.DUPLICATE, count=num_repeats, first=())
    names = [[annotated.vocabulary[label] for label in group] for group in groups]
    identity = {"annotations": annotated.annotation_sha256, "merged": names}
    return replace(
        merged,
        records=replace(merged.records, regions=regions),
        annotation_sha256=sha256_bytes(canonical_json(identity).encode()),
        report=replace(report, num_regions=len(stays), dropped=add_up(*report.dropped, repeats)),
    )


def _new_labels(annotated: AnnotatedImages, kept: Sequence[int]) -> NDArray[np.int32]:
    """Number the kept classes from 0; -1 for the others and, at the end, for an unknown class."""
    labels = np.full(len(annotated.vocabulary) + 1, -1, np.int32)
    labels[kept] = np.arange(len(kept), dtype=np.int32)
    return labels


def _with_kept(
    annotated: AnnotatedImages, kept: Sequence[int], new_labels: NDArray[np.int32]
) -> AnnotatedImages:
    synonyms, regions = annotated.synonyms, annotated.records.regions
    return replace(
        annotated,
        vocabulary=Vocabulary.from_names(annotated.vocabulary[label] for label in kept),
        category_ids=tuple(annotated.category_ids[label] for label in kept),
        synonyms=synonyms and tuple(synonyms[label] for label in kept),
        records=replace(
            annotated.records, regions=replace(regions, labels=new_labels[regions.labels])
        ),
    )


def _with_note(annotated: AnnotatedImages, counts: NDArray[np.intp]) -> AnnotatedImages:
    empty = [annotated.vocabulary[label] for label in np.flatnonzero(counts == 0).tolist()]
    if not empty or not counts.any():
        return annotated
    note = (
        f"{len(empty):,} of {len(counts):,} classes have no region: {_named(empty)}. They compete"
        " with the others all the same; to leave them out, give --annotations.classes annotated"
    )
    report = annotated.report
    return replace(annotated, report=replace(report, notes=(*report.notes, note)))


def _named(names: Sequence[str]) -> str:
    return few([*map(repr, names)], _NUM_NAMED)
