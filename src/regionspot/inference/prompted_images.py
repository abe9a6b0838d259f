"""Images on disk with the boxes to name in them, and SAM's masks of these boxes.

Shape letters: B images, S W its embedding, H W an image.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from regionspot.backbones import BoxPrompts, DecodedMasks, FrozenModels, Localizer, region_masks
from regionspot.core.geometry import FloatArray, clip_boxes_xyxy
from regionspot.core.rle_masks import RleMasks
from regionspot.inference.inputs import load_image

_Item = TypeVar("_Item")
_BATCH_SIZE = 4  # images that are decoded and embedded at once


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptedImage:
    """An image on disk and the boxes to name."""

    image_id: int
    """The data set's own image id."""
    path: Path
    """The image file."""
    boxes_xyxy: FloatArray
    """Boxes, (R, 4) float32, pixels of the original image, to which they are clipped."""
    box_scores: NDArray[np.float32] | None = None
    """A detector's confidence in each box, (R,), passed on with the scores."""


def in_batches(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    """Yield ``size`` items at a time, and what is left at the end."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def masks_of_boxes(
    localizer: Localizer, images: Sequence[tuple[NDArray[np.uint8], FloatArray]]
) -> Iterator[DecodedMasks]:
    """Yield the masks that SAM predicts for the boxes of each image.

    Args:
        localizer: The frozen SAM.
        images: At least one image, (H, W, 3) uint8 RGB, with boxes, (R, 4), inside it; embedded at
            once.
    """
    frames_BCHW = torch.stack([localizer.preprocess(pixels) for pixels, _ in images])
    embedded_BSHW = localizer.embed(frames_BCHW)
    for index, (pixels, boxes_xyxy) in enumerate(images):
        prompts = BoxPrompts(boxes_xyxy=boxes_xyxy)
        size_hw = (pixels.shape[0], pixels.shape[1])
        yield region_masks(localizer, embedded_BSHW[index : index + 1], prompts, size_hw)


def sam_masks(models: FrozenModels, images: Iterable[PromptedImage]) -> Iterator[RleMasks]:
    """Yield the masks that SAM predicts for the boxes of each image, in order.

    Args:
        models: The frozen models, of which SAM runs.
        images: Images with their boxes; consumed lazily.

    Raises:
        MissingFileError: An image file does not exist.
        MissingExtraError: pycocotools is not installed.
    """

    @torch.inference_mode()
    def encoded(batch: Sequence[PromptedImage]) -> list[RleMasks]:
        opened = [load_image(one.path, rotation_log_level=logging.DEBUG) for one in batch]
        sizes_hw = [(pixels.shape[0], pixels.shape[1]) for pixels in opened]
        boxes = [
            clip_boxes_xyxy(one.boxes_xyxy, size_hw)
            for one, size_hw in zip(batch, sizes_hw, strict=True)
        ]
        masks = masks_of_boxes(models.localizer, list(zip(opened, boxes, strict=True)))
        return [
            RleMasks.of_pixels(found, size_hw)
            for found, size_hw in zip(masks, sizes_hw, strict=True)
        ]

    with closing(models.map_batches(encoded, in_batches(images, _BATCH_SIZE))) as found:
        yield from chain.from_iterable(found)
