"""Checks of masks before mask AP is computed: both sides have them, at the sizes of the images."""

from collections.abc import Mapping

import numpy as np

from regionspot.annotations import LvisGroundTruth
from regionspot.core.errors import AnnotationError, ConfigError
from regionspot.core.rle_masks import RleMasks
from regionspot.scoring.coco_truth import CocoGroundTruth
from regionspot.scoring.predictions import Predictions


def truth_masks(truth: LvisGroundTruth | CocoGroundTruth) -> RleMasks:
    """Return the masks of the ground truth.

    Raises:
        ConfigError: It was read without masks.
    """
    masks = truth.regions.masks if isinstance(truth, LvisGroundTruth) else truth.masks
    if masks is None:
        raise ConfigError(
            f"mask AP (--iou_type segm) needs ground-truth masks, and {truth.name} was read without"
            " them. Set --annotations to an LVIS or COCO file with segmentations."
        )
    return masks


def predicted_masks(
    predictions: Predictions, sizes_hw: Mapping[int, tuple[int, int]], *, name: str
) -> RleMasks:
    """Return the masks of predictions.

    Args:
        predictions: Predictions of images that ``sizes_hw`` lists.
        sizes_hw: Height and width of each image in pixels.
        name: What messages call the predictions.

    Raises:
        AnnotationError: They have no masks, or one is not of the size of its image.
    """
    if not len(predictions):
        return RleMasks.of_lists([], [])
    if predictions.masks is None:
        raise AnnotationError(
            f"{name} have no masks, which mask AP (--iou_type segm) compares. Give each a mask, or"
            " set --iou_type bbox."
        )
    wanted_hw = np.array([sizes_hw[number] for number in predictions.image_ids.tolist()], np.int64)
    is_other = (predictions.masks.sizes_hw != wanted_hw).any(axis=1)
    if is_other.any():
        row = int(np.flatnonzero(is_other)[0])
        found_hw = predictions.masks.sizes_hw[row].tolist()
        raise AnnotationError(
            f"{name}: {is_other.sum():,} masks are not of the size of their image, e.g. entry {row}"
            f" has a mask of {found_hw[0]} x {found_hw[1]} (height x width), and image"
            f" {predictions.image_ids[row]} is {wanted_hw[row, 0]} x {wanted_hw[row, 1]}."
        )
    return predictions.masks
