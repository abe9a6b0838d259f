"""What a method called each region, in columns: all that figures over regions need.

Class scores themselves are not kept: LVIS has 244,000 regions of 1,203 classes.

Shape letters: N regions, C classes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from regionspot.core.errors import ShapeError
from regionspot.core.region_scores import RegionScores


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NamedRegions:
    """The most likely class of every region, and how far down the annotated one is."""

    labels: NDArray[np.int64]
    """Annotated classes, (N,); -1 where the class is unknown."""
    predicted: NDArray[np.int64]
    """Most likely classes, (N,); of equally likely ones the first."""
    probabilities: NDArray[np.float32]
    """Probabilities of the predicted classes, (N,)."""
    ranks: NDArray[np.int64]
    """Number of classes that are ranked before the annotated one, (N,): 0 where it is predicted; -1
    where the class is unknown."""
    num_classes: int
    """Size of the vocabulary, C."""

    @classmethod
    def of_scores(cls, scores: RegionScores, labels: NDArray[np.int64]) -> Self:
        """Rank the classes of the regions of an image.

        Args:
            scores: Class scores of its regions.
            labels: Their annotated classes, (N,); -1 for none.

        Raises:
            ShapeError: The numbers of regions differ.
        """
        values = scores.scores
        if len(values) != len(labels):
            raise ShapeError(
                f"image {scores.image_id}: scores of {len(values)} regions, but {len(labels)}"
                " labels."
            )
        rows = np.arange(len(labels))
        predicted = values.argmax(axis=1) if len(labels) else np.zeros(0, np.int64)
        own = values[rows, labels][:, None]
        is_before = np.arange(values.shape[1]) < labels[:, None]
        ranks = ((values > own) | ((values == own) & is_before)).sum(axis=1)
        return cls(
            labels=labels.astype(np.int64),
            predicted=predicted.astype(np.int64),
            probabilities=values[rows, predicted],
            ranks=np.where(labels >= 0, ranks, -1),
            num_classes=values.shape[1],
        )

    @classmethod
    def concatenate(cls, parts: Iterable["NamedRegions"]) -> Self:
        """Join regions in the order given; no parts give no regions."""
        found = list(parts)
        empty = np.zeros(0, np.int64)
        return cls(
            labels=np.concatenate([empty, *(part.labels for part in found)]),
            predicted=np.concatenate([empty, *(part.predicted for part in found)]),
            probabilities=np.concatenate(
                [np.zeros(0, np.float32), *(part.probabilities for part in found)]
            ),
            ranks=np.concatenate([empty, *(part.ranks for part in found)]),
            num_classes=max((part.num_classes for part in found), default=0),
        )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def known(self) -> "NamedRegions":
        """The regions whose class is annotated."""
        return self.select(self.labels >= 0)

    def select(self, rows: NDArray[np.bool_ | np.integer]) -> "NamedRegions":
        """Return the regions of a mask, or of row numbers, which may repeat."""
        return NamedRegions(
            labels=self.labels[rows],
            predicted=self.predicted[rows],
            probabilities=self.probabilities[rows],
            ranks=self.ranks[rows],
            num_classes=self.num_classes,
        )
