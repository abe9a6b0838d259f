"""What a search of a region index finds, and which regions it may find.

Shape letter: R regions of a part.
"""

import difflib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regionspot.core.errors import ConfigError
from regionspot.inference.index_files import RegionTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A region that a search found."""

    key: str
    """Key of its image in the cache."""
    region: int
    """Its number among the regions of the image, from 0."""
    image_id: int
    """The data set's own id of the image."""
    file_name: str | None
    """The image's file, relative to the folder of the images; None if the cache does not know."""
    box_xyxy: tuple[float, float, float, float]
    """Its box, pixels of the original image."""
    label: str | None
    """Its annotated class; None for a proposal."""
    cosine: float
    """Cosine of its embedding and the query."""
    confidence: float | None
    """Probability that the words name it, by the head's classifier, whatever else might; None if
    the query is a region."""

    @property
    def score(self) -> float:
        """The confidence; the cosine if the query is a region."""
        return self.cosine if self.confidence is None else self.confidence


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionFilter:
    """Which regions a search may find."""

    images: Collection[str] | None = None
    """Keys of their images; None for all."""
    not_labelled: Collection[str] = ()
    """Class names that they are not annotated with."""
    min_score: float | None = None
    """Least score (`Hit.score`); None for any."""


ALL_REGIONS = RegionFilter()
"""Leaves nothing out."""


def regions_to_search(
    only: RegionFilter, tables: Iterable[RegionTable], vocabulary: Sequence[str], folder: Path
) -> list[NDArray[np.bool_]] | None:
    """Return which regions of each part may be found, (R,), or None for all.

    Args:
        only: The filter.
        tables: The regions of each part; consumed lazily, and not for a filter that leaves nothing
            out.
        vocabulary: Class names of the cache.
        folder: The index, for messages.

    Raises:
        ConfigError: A class name or a key is unknown.
    """
    if unknown := sorted(set(only.not_labelled) - set(vocabulary)):
        near = difflib.get_close_matches(unknown[0], vocabulary, n=4, cutoff=0.5)
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ConfigError(
            f"{unknown[0]!r} is not among the {len(vocabulary):,} class names of the cache.{hint}"
        )
    if only.images is None and not only.not_labelled:
        return None
    labels = [vocabulary.index(name) for name in only.not_labelled]
    keys = None
    if only.images is not None:  # keys are ASCII, so that no other text is found
        keys = np.array([key.encode("ascii", "replace") for key in only.images], np.bytes_)
    masks, seen = [], set[bytes]()
    for table in tables:
        mask = ~np.isin(table.labels, labels)
        if keys is not None:
            is_chosen = np.isin(table.keys, keys)
            seen.update(table.keys[is_chosen].tolist())
            mask &= is_chosen[table.images]
        masks.append(mask)
    if keys is not None and (missing := sorted(set(keys.tolist()) - seen)):
        raise ConfigError(
            f"{folder} has no image {missing[0].decode()!r} ({len(missing):,} of {len(keys):,} keys"
            " are unknown); wanted keys as a search prints them."
        )
    return masks
