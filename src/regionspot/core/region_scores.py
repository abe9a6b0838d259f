"""Scores of all classes for each region of an image."""

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
