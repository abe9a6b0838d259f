"""Scores of all classes for each region of an image, and the highest of them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regionspot.core.errors import ShapeError
from regionspot.core.rle_masks import RleMasks


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionScores:
    """Class scores of one image's regions, from the head, CLIP on crops, or a detector.

    Row ``i`` of everything is region ``i``.

    Raises:
        ShapeError: The numbers of rows differ.
    """

    image_id: int
    """The data set's own image id."""
    boxes_xyxy: NDArray[np.float32]
    """Boxes, (R, 4), pixels of the original image."""
    scores: NDArray[np.float32]
    """Probability of every class of the vocabulary for each region, (R, C)."""
    box_scores: NDArray[np.float32] | None = None
    """The detector's confidence in each box, (R,); None counts as 1, as for annotated boxes."""
    predicted_iou: NDArray[np.float32] | None = None
    """SAM's own estimate of the IoU of its mask of each region, (R,); None if it is not known."""
    masks: RleMasks | None = None
    """Mask of each region, R in all; None without."""

    def __post_init__(self) -> None:
        rows = {len(self.boxes_xyxy), len(self.scores)}
        optional = (self.box_scores, self.predicted_iou, self.masks)
        rows |= {len(one) for one in optional if one is not None}
        if len(rows) != 1 or self.scores.ndim != 2:
            raise ShapeError(
                f"image {self.image_id}: boxes {self.boxes_xyxy.shape}, scores {self.scores.shape}"
                ", box scores, predicted IoUs and masks must have one row per region."
            )


def top_k(values: NDArray[np.floating], k: int) -> NDArray[np.int64]:
    """Return the indices of the ``k`` largest values, largest first, equal ones by index.

    Args:
        values: Numbers, (N,).
        k: How many; all if there are fewer.
    """
    if len(values) > k:
        # A partition alone would keep an arbitrary few of the values tied at the cut.
        threshold = np.partition(values, len(values) - k)[len(values) - k]
        above = np.flatnonzero(values > threshold)
        at = np.flatnonzero(values == threshold)[: k - len(above)]
        chosen = np.sort(np.concatenate([above, at]))
    else:
        chosen = np.arange(len(values))
    return chosen[np.argsort(-values[chosen], kind="stable")]
