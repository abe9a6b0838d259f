"""Runs the frozen models on prepared images: position tokens and feature maps, ready to store."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regionspot.backbones import FrozenModels
from regionspot.cache import CachedSample
from regionspot.core.errors import WeightsError
from regionspot.extraction.locate import LocatedRegions, RegionLocator
from regionspot.extraction.prepare import PreparedImage


@torch.inference_mode()
def featurize(
    models: FrozenModels, images: Sequence[PreparedImage], locator: RegionLocator | None = None
) -> list[CachedSample]:
    """Compute one sample an image, in order; no image gives no sample.

    Args:
        models: The frozen pair, on its device.
        images: What goes through both models at once.
        locator: What turns regions into tokens, with the localizer of ``models``; by default from
            the records' boxes.

    Raises:
        WeightsError: A model's output is not finite, or too large for float16.
    """
    if not images:
        return []
    encoder, locator = models.encoder, locator or RegionLocator(localizer=models.localizer)
    pixels_BCHW = encoder.normalise(torch.stack([image.clip_pixels for image in images]))
    maps_BTD = encoder.features(pixels_BCHW)
    return [
        CachedSample(
            key=image.record.key,
            image_id=image.record.image_id,
            size_hw=image.record.size_hw,
            boxes_xyxy=regions.boxes_xyxy,
            labels=regions.labels,
            box_scores=regions.box_scores,
            position_tokens=_to_float16(regions.tokens, image, "SAM"),
            feature_map=_to_float16(map_TD, image, "CLIP"),
            num_clipped_regions=image.num_clipped,
            num_dropped_regions=image.num_dropped + regions.num_dropped,
        )
        for image, regions, map_TD in zip(images, _locate(images, locator), maps_BTD, strict=True)
    ]


def _locate(images: Sequence[PreparedImage], locator: RegionLocator) -> list[LocatedRegions]:
    localizer = locator.localizer
    frames = [localizer.normalise(i.sam_pixels) for i in images if i.sam_pixels is not None]
    embeddings = iter(localizer.embed(torch.stack(frames)) if frames else ())
    return [
        locator.locate(image.record, None if image.sam_pixels is None else next(embeddings)[None])
        for image in images
    ]


def _to_float16(values: Tensor, image: PreparedImage, model: str) -> NDArray[np.float16]:
    halves = values.to(torch.float16).cpu().numpy()
    if not np.isfinite(halves).all():
        raise WeightsError(
            f"{model}'s output for image {image.record.key} ({image.record.file_name}) is not"
            " finite in float16: its weights are damaged or belong to another model. Check"
            f" --models.{model.lower()}_weights."
        )
    return halves
