"""Which of a file's classes make the vocabulary, and which of them have no region.

A class without a region competes with all others when regions are named, although nothing was ever
learnt about it. Exports have such classes: Roboflow's list the parent of all classes, at id 0.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from regionspot.annotations.columns import RawAnnotations
from regionspot.annotations.report import Reason
from regionspot.annotations.table import AnnotatedImages
from regionspot.core.errors import ConfigError
from regionspot.core.vocabulary import Vocabulary

Classes = Literal["annotated"] | tuple[str, ...]
"""The classes that have a region, or those of these names."""

_NUM_NAMED = 10


def mark_other_classes(raw: RawAnnotations, names: Sequence[str], path: Path) -> RawAnnotations:
    """Mark annotations of classes that are not among those named.

    Raises:
        ConfigError: The file has no class of a name, or no name is given.
    """
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
        classes: Which classes are kept. All if None: the report then names those without a region.

    Raises:
        ConfigError: Only classes with a region are to be kept, and there is none.
    """
    counts = np.bincount(annotated.records.regions.labels, minlength=len(annotated.vocabulary))
    if classes is None:
        return _with_note(annotated, counts)
    if classes == "annotated":
        kept = np.flatnonzero(counts)
        if not len(kept):
            raise ConfigError(
                f"--annotations.classes is annotated, but no class of {annotated.name} has a"
                " region. Leave it out."
            )
    else:
        kept = np.flatnonzero([name in classes for name in annotated.vocabulary])
    labels = np.full(len(annotated.vocabulary), -1, np.int32)
    labels[kept] = np.arange(len(kept), dtype=np.int32)
    regions = annotated.records.regions
    chosen = kept.tolist()
    return replace(
        annotated,
        vocabulary=Vocabulary.from_names(annotated.vocabulary[label] for label in chosen),
        category_ids=tuple(annotated.category_ids[label] for label in chosen),
        synonyms=annotated.synonyms and tuple(annotated.synonyms[label] for label in chosen),
        records=replace(annotated.records, regions=replace(regions, labels=labels[regions.labels])),
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
    more = ", ..." if len(names) > _NUM_NAMED else ""
    return ", ".join(map(repr, names[:_NUM_NAMED])) + more
