"""Crops of regions for the paper's CLIP baselines, and patch tokens pooled over boxes.

Images are uint8 RGB arrays (H, W, 3); boxes are in pixels of the original image. A box is widened
to whole pixels and covers at least one: a box thinner than a pixel, or outside the image, becomes
the nearest pixel row or column.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from regionspot.core.geometry import FloatArray

ImageArray = NDArray[np.uint8]
MaskArray = NDArray[np.bool_]


def pixel_box(box_xyxy: FloatArray, size_hw: tuple[int, int]) -> tuple[int, int, int, int]:
    """Widen one box, (4,), to the whole pixels it touches, at least one pixel inside the image.

    Returns:
        ``(x1, y1, x2, y2)``, half-open: ``image[y1:y2, x1:x2]``.
    """
    height, width = size_hw
    x1, x2 = _pixel_range(float(box_xyxy[0]), float(box_xyxy[2]), width)
    y1, y2 = _pixel_range(float(box_xyxy[1]), float(box_xyxy[3]), height)
    return x1, y1, x2, y2


def box_crop(image: ImageArray, box_xyxy: FloatArray) -> ImageArray:
    """Cut the box out of the image: a view of at least (1, 1, 3)."""
    x1, y1, x2, y2 = pixel_box(box_xyxy, (image.shape[0], image.shape[1]))
    return image[y1:y2, x1:x2]


def mask_crop(
    image: ImageArray, box_xyxy: FloatArray, mask: MaskArray, grey: ImageArray
) -> ImageArray:
    """Cut the box out of the image and paint everything outside the mask grey.

    A mask without a pixel in the box says nothing about the region and is ignored.

    Args:
        image: The whole image, (H, W, 3) uint8 RGB.
        box_xyxy: One box, (4,), original pixels.
        mask: The region at the image's size, (H, W) bool.
        grey: The fill colour, (3,) uint8 RGB.
    """
    x1, y1, x2, y2 = pixel_box(box_xyxy, (image.shape[0], image.shape[1]))
    inside, crop = mask[y1:y2, x1:x2], image[y1:y2, x1:x2]
    return np.where(inside[..., None], crop, grey) if inside.any() else crop


def grey_outside_mask(
    image: ImageArray, box_xyxy: FloatArray, mask: MaskArray, grey: ImageArray
) -> ImageArray:
    """Paint everything outside the mask grey, and keep the image's size.

    The mask is not cut to the box. An empty mask is replaced by the box, so that some of the region
    stays visible. Arguments as in `mask_crop`.
    """
    if not mask.any():
        x1, y1, x2, y2 = pixel_box(box_xyxy, (image.shape[0], image.shape[1]))
        mask = np.zeros_like(mask)
        mask[y1:y2, x1:x2] = True
    return np.where(mask[..., None], image, grey)


def mean_grey(mean: tuple[float, float, float]) -> ImageArray:
    """Return the colour, (3,) uint8 RGB, that a CLIP with this input mean sees as (nearly) zero.

    Args:
        mean: The encoder's input mean by channel, as fractions of full brightness.
    """
    return np.rint(np.array(mean) * 255).astype(np.uint8)


def pooled_patch_logits(
    patches_PE: Tensor, inside_RP: Tensor, text_bank_CE: Tensor, *, scale: float
) -> Tensor:
    """Pool the logits of CLIP's own patch tokens over each region by log-mean-exp.

    Nothing is trained and no crop is encoded: a fusion head that is not better than this control
    has only learned to look up its box.

    Args:
        patches_PE: Patch tokens after CLIP's final norm and projection, (P, E), without the class
            token; normalised here.
        inside_RP: Which patches belong to each region, (R, P) bool, no row empty.
        text_bank_CE: Unit-norm class embeddings, (C, E).
        scale: CLIP's logit scale.

    Returns:
        Logits, (R, C): between the mean and the maximum of the region's patch logits.
    """
    logits_PC = scale * F.normalize(patches_PE.float(), dim=-1) @ text_bank_CE.T
    pooled = [
        logits_PC[inside_P].logsumexp(dim=0) - math.log(int(inside_P.sum()))
        for inside_P in inside_RP
    ]
    return torch.stack(pooled) if pooled else logits_PC.new_zeros((0, len(text_bank_CE)))


def _pixel_range(low: float, high: float, length: int) -> tuple[int, int]:
    start = min(max(math.floor(low), 0), length - 1)
    return start, min(max(math.ceil(high), start + 1), length)
