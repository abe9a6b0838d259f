"""Scores of regions keep one row per region."""

import numpy as np
import pytest

from regionspot.core.errors import ShapeError
from regionspot.core.region_scores import RegionScores


@pytest.mark.parametrize(("num_boxes", "num_scores", "num_box_scores"), [(2, 3, None), (2, 2, 1)])
def test_rows_that_do_not_correspond_are_refused(
    num_boxes: int, num_scores: int, num_box_scores: int | None
) -> None:
    box_scores = None if num_box_scores is None else np.zeros(num_box_scores, np.float32)
    with pytest.raises(ShapeError, match="image 7: .*one row per region"):
        RegionScores(
            image_id=7,
            boxes_xyxy=np.zeros((num_boxes, 4), np.float32),
            scores=np.zeros((num_scores, 5), np.float32),
            box_scores=box_scores,
        )
