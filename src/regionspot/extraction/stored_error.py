"""How far stored numbers are from those of float32 models, stored exactly, on a few images.

Shape letters: T feature tokens, D feature width, R regions, S SAM width.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import torch
from torch import Tensor

from regionspot.backbones import FrozenModels
from regionspot.cache import (
    FeatureCodec,
    Manifest,
    MeasuredError,
    decode_features,
    encode_features,
)
from regionspot.extraction.job import CacheJob
from regionspot.extraction.locate import LocatedRegions, RegionLocator
from regionspot.extraction.prepare import PreparedImage

_logger = logging.getLogger(__name__)


NUM_MEASURED: Final = 4
"""Images that a new cache is measured on, at even distances; each goes through SAM twice."""


def measured_manifest(job: CacheJob) -> Manifest:
    """Return a job's manifest with the error of its codec and precision, if it has any to state.

    The same job states the same error on the same machine; it is rounded to two digits.

    Raises:
        WeightsError: A model's output is not finite.
    """
    manifest = job.manifest
    if (manifest.codec, manifest.precision) == ("float16", "float32"):
        return manifest
    if job.old_cache is not None:
        # It has the same codec and precision, and nearly all numbers are its.
        return replace(manifest, measured_error=job.old_cache.measured_error)
    error = measure_error(job.models, _some_images(job), job.locator, codec=manifest.codec)
    _logger.info(
        "feature maps stored as %s, computed in %s: relative error %s (position tokens: %s)",
        manifest.codec,
        manifest.precision,
        error.feature_map,
        error.position_tokens,
    )
    return replace(manifest, measured_error=error)


def _some_images(job: CacheJob) -> list[PreparedImage]:
    preparation = job.preparation
    # More than are needed, as some may be unusable.
    places = np.linspace(0, len(job.records) - 1, 8 * NUM_MEASURED).round().astype(int)
    images: list[PreparedImage] = []
    for place in dict.fromkeys(places[_spread(len(places))].tolist()):
        image = preparation.prepare(job.records[place])
        if isinstance(image, PreparedImage):
            images.append(image)
        if len(images) == NUM_MEASURED:
            break
    return images


def _spread(count: int) -> list[int]:
    """Return 0 to count - 1 so that the first few are far from each other."""
    step = count // NUM_MEASURED
    return [number for start in range(step) for number in range(start, count, step)]


@torch.inference_mode()
def measure_error(
    models: FrozenModels,
    images: Sequence[PreparedImage],
    locator: RegionLocator | None = None,
    *,
    codec: FeatureCodec = "float16",
) -> MeasuredError:
    """Compare what is stored of the models' numbers with these models in float32, not compiled.

    Images are taken one by one, so that memory does not depend on how many they are. Regions that
    the locator finds itself are found once, in the configured precision: their tokens are compared,
    not which are found.

    Args:
        models: The frozen pair, on its device.
        images: What to compare on.
        locator: What turns regions into tokens; by default from the records' boxes.
        codec: How feature maps are stored.
    """
    encoder, locator = models.encoder, locator or RegionLocator(localizer=models.localizer)
    maps, tokens = _SquareSums(), _SquareSums()
    for image in images:
        if image.clip_pixels is not None:
            pixels_1CHW = encoder.normalise(image.clip_pixels[None])
            stored = encode_features(encoder.features(pixels_1CHW), codec)
            maps.add(decode_features(stored), encoder.reference().features(pixels_1CHW))
        if image.sam_pixels is not None:
            tokens.add(*_tokens(image, image.sam_pixels, locator))
    return MeasuredError(
        feature_map=maps.relative_error(),
        position_tokens=tokens.relative_error(),
        num_images=len(images),
    )


def _tokens(
    image: PreparedImage, sam_pixels: Tensor, locator: RegionLocator
) -> tuple[Tensor, Tensor]:
    """Return an image's tokens as configured and in float32, (R, S) each."""
    localizer, record = locator.localizer, image.record
    pixels_1CHW = localizer.normalise(sam_pixels)[None]
    found: LocatedRegions = locator.locate(record, localizer.embed(pixels_1CHW))
    if locator.grid is not None:
        record = replace(
            record,
            boxes_xyxy=found.boxes_xyxy,
            labels=found.labels,
            box_scores=found.box_scores,
        )
    reference = localizer.reference()
    wanted = replace(locator, localizer=reference, grid=None).locate(
        record, reference.embed(pixels_1CHW)
    )
    return found.tokens.to(torch.float16), wanted.tokens


class _SquareSums:
    """Sums over all images, in float64."""

    def __init__(self) -> None:
        self._errors = self._numbers = 0.0

    def add(self, found: Tensor, wanted: Tensor) -> None:
        self._errors += float((found.double() - wanted.double()).square().sum())
        self._numbers += float(wanted.double().square().sum())

    def relative_error(self) -> float | None:
        if not self._numbers:
            return None
        return float(f"{(self._errors / self._numbers) ** 0.5:.2g}")
