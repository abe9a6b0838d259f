"""Named regions that nobody recognized."""

from typing import Any

import numpy as np

from regionspot.core.vocabulary import Vocabulary
from regionspot.inference import Regions

BOXES = [[10.0, 20.0, 60.0, 45.0], [0.0, 0.0, 5.0, 5.0], [30.0, 5.5, 80.0, 50.0]]


def make_regions(**changes: Any) -> Regions:
    """Three regions of a grey 50 x 80 picture."""
    masks = np.zeros((3, 50, 80), np.bool_)
    masks[0, 25:35, 20:50] = True
    fields: dict[str, Any] = {
        "image": np.full((50, 80, 3), 100, np.uint8),
        "vocabulary": Vocabulary(("lemon", "tennis ball", "sea egg")),
        "boxes_xyxy": np.array(BOXES, np.float32),
        "top_class_ids": np.array([[2, 0], [0, 1], [2, 1]]),
        "top_scores": np.array([[0.75, 0.25], [0.5, 0.375], [1, 0]], np.float32),
        "top_confidences": np.array([[0.5, 0.125], [0.25, 0.25], [1, 0]], np.float32),
        "embeddings": np.arange(12, dtype=np.float32).reshape(3, 4),
        "kept_masks": masks,
    }
    return Regions(**(fields | changes))
