"""Runs the frozen models on prepared images: position tokens and feature maps, ready to store."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regionspot.backbones import Encoder, FrozenModels
from regionspot.cache import (
    CachedSample,
    FeatureCodec,
    all_finite,
    encode_features,
    stored_array,
)
from regionspot.core.errors import WeightsError
from regionspot.extraction.locate import LocatedRegions, RegionLocator
from regionspot.extraction.prepare import PreparedImage


@torch.inference_mode()
def featurize(
    models: FrozenModels,
    images: Sequence[PreparedImage],
    locator: RegionLocator | None = None,
    *,
    codec: FeatureCodec = "float16",
) -> list[CachedSample]:
    """Compute one sample an image, in order; no image gives no sample.

    Args:
        models: The frozen pair, on its device.
        images: What goes through both models at once.
        locator: What turns regions into tokens, with the localizer of ``models``; by default from
            the records' boxes.
        codec: How feature maps are stored.

    Raises:
        WeightsError: A model's output is not finite, or too large for float16.
    """
    if not images:
        return []
    locator = locator or RegionLocator(localizer=models.localizer)
    return [
        CachedSample(
            key=image.record.key,
            image_id=image.record.image_id,
            size_hw=image.record.size_hw,
            boxes_xyxy=regions.boxes_xyxy,
            labels=regions.labels,
            box_scores=regions.box_scores,
            position_tokens=_to_float16(regions.tokens, image, "SAM"),
            feature_map=feature_map,
            num_clipped_regions=image.num_clipped,
            num_dropped_regions=image.num_dropped + regions.num_dropped,
        )
        for image, regions, feature_map in zip(
            images,
            _locate(images, locator),
            _feature_maps(images, models.encoder, codec),
            strict=True,
        )
    ]


def _feature_maps(
    images: Sequence[PreparedImage], encoder: Encoder, codec: FeatureCodec
) -> Iterator[NDArray[np.generic]]:
    frames = [i.clip_pixels for i in images if i.clip_pixels is not None]
    maps = iter(encoder.features(encoder.normalise(torch.stack(frames))) if frames else ())
    for image in images:
        if image.reused is None:
            yield _stored(next(maps), image, codec)
        else:
            yield image.reused.sample.feature_map


def _locate(images: Sequence[PreparedImage], locator: RegionLocator) -> list[LocatedRegions]:
    localizer = locator.localizer
    frames = [localizer.normalise(i.sam_pixels) for i in images if i.sam_pixels is not None]
    embeddings = iter(localizer.embed(torch.stack(frames)) if frames else ())
    return [
        image.reused.regions
        if image.reused is not None and image.reused.regions is not None
        else locator.locate(
            image.record, None if image.sam_pixels is None else next(embeddings)[None]
        )
        for image in images
    ]


def _to_float16(values: Tensor, image: PreparedImage, model: str) -> NDArray[np.float16]:
    halves: NDArray[np.float16] = values.to(torch.float16).cpu().numpy()
    if not np.isfinite(halves).all():
        raise _not_finite(image, model, "float16")
    return halves


def _stored(map_TD: Tensor, image: PreparedImage, codec: FeatureCodec) -> NDArray[np.generic]:
    stored = stored_array(encode_features(map_TD, codec))
    if not all_finite(stored):
        raise _not_finite(image, "CLIP", codec)
    return stored


def _not_finite(image: PreparedImage, model: str, stored_as: str) -> WeightsError:
    too_large = "" if model == "SAM" else " If they are only too large, give --codec bfloat16."
    return WeightsError(
        f"{model}'s output for image {image.record.key} ({image.record.file_name}) is not"
        f" finite in {stored_as}: its weights are damaged or belong to another model. Check"
        f" --models.{model.lower()}_weights.{too_large}"
    )
