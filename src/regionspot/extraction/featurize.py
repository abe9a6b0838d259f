"""Runs the frozen models on prepared images: position tokens and feature maps, ready to store."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regionspot.backbones import FrozenModels
from regionspot.cache import CachedSample
from regionspot.core.errors import WeightsError
from regionspot.extraction.prepare import PreparedImage


@torch.inference_mode()
def featurize(models: FrozenModels, images: Sequence[PreparedImage]) -> list[CachedSample]:
    """Compute one sample an image, in order; no image gives no sample.

    Args:
        models: The frozen pair, on its device.
        images: What goes through both models at once.

    Raises:
        WeightsError: A model's output is not finite, or too large for float16.
    """
    if not images:
        return []
    encoder = models.encoder
    pixels_BCHW = encoder.normalise(torch.stack([image.clip_pixels for image in images]))
    maps_BTD = encoder.features(pixels_BCHW)
    return [
        CachedSample(
            key=image.record.key,
            image_id=image.record.image_id,
            size_hw=image.record.size_hw,
            boxes_xyxy=image.record.boxes_xyxy,
            labels=image.record.labels,
            position_tokens=_to_float16(tokens_RS, image, "SAM"),
            feature_map=_to_float16(map_TD, image, "CLIP"),
        )
        for image, tokens_RS, map_TD in zip(
            images, _position_tokens(models, images), maps_BTD, strict=True
        )
    ]


def _position_tokens(models: FrozenModels, images: Sequence[PreparedImage]) -> list[Tensor]:
    localizer = models.localizer
    frames = [localizer.normalise(i.sam_pixels) for i in images if i.sam_pixels is not None]
    embeddings = iter(localizer.embed(torch.stack(frames)) if frames else ())
    return [
        torch.zeros(0, localizer.token_dim)
        if image.sam_pixels is None
        else localizer.tokens(next(embeddings)[None], image.record.boxes_xyxy, image.record.size_hw)
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
