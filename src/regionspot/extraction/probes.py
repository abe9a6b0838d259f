"""Two checks that run the models on a few images; no stored number depends on them.

`measured_manifest` measures the precision loss: the difference of the stored numbers from those of
float32 models, stored exactly. `check_same_images` checks that a cache to reuse holds the same
images: two data sets may both have an image 000000000042 of 640 x 480 pixels, so the first reused
image of each shard goes through CLIP, and the feature maps are compared.

Shape letters: T feature tokens, D feature width, R regions, S SAM width.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regionspot.backbones import FrozenModels
from regionspot.cache import CodecName, Manifest, MeasuredError, QuarantinedImage, find_codec
from regionspot.core.errors import CacheMismatchError
from regionspot.extraction.job import CacheJob
from regionspot.extraction.locate import RegionLocator
from regionspot.extraction.prepare import PreparedImage
from regionspot.extraction.reuse import OldCache, Reused

_logger = logging.getLogger(__name__)


NUM_MEASURED: Final = 4
"""Number of evenly spaced images to measure the precision loss on; SAM runs twice on each."""


def measured_manifest(job: CacheJob) -> Manifest:
    """Return a job's manifest with the relative error due to its codec and precision, if any.

    The error is rounded to two digits, and is the same for the same job on the same machine.
    """
    manifest = job.manifest
    if (manifest.codec, manifest.precision) == ("float16", "float32"):
        return manifest
    if job.old_cache is not None:
        # It has the same codec and precision, and almost all numbers come from it.
        return replace(manifest, measured_error=job.old_cache.cache.manifest.measured_error)
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
    # More than needed, as some may be unusable; those to use first are far from each other.
    places = np.linspace(0, len(job.records) - 1, NUM_MEASURED * 8).round().astype(int)
    places = places.reshape(NUM_MEASURED, 8).T.ravel()
    prepared = (preparation.prepare(job.records[n]) for n in dict.fromkeys(places.tolist()))
    usable = (image for image in prepared if isinstance(image, PreparedImage))
    return list(islice(usable, NUM_MEASURED))


@torch.inference_mode()
def measure_error(
    models: FrozenModels,
    images: Sequence[PreparedImage],
    locator: RegionLocator | None = None,
    *,
    codec: CodecName = "float16",
) -> MeasuredError:
    """Compare the stored numbers with those of the same models in float32, not compiled.

    Images are processed one at a time, so that memory does not depend on their number. If the
    locator proposes regions, it does so once, in the configured precision: tokens are compared, not
    the choice of regions.

    Args:
        models: The frozen models, on their device.
        images: The images to compare on.
        locator: Computes tokens; by default from the records' boxes.
        codec: How feature maps are stored.
    """
    encoder, locator = models.encoder, locator or RegionLocator(localizer=models.localizer)
    locator = replace(locator, masks=False)
    feature_codec = find_codec(codec)
    maps, tokens = _SquareSums(), _SquareSums()
    for image in images:
        if image.clip_pixels is not None:
            pixels_1CHW = encoder.normalise(image.clip_pixels[None])
            stored = feature_codec.encode(encoder.features(pixels_1CHW))
            maps.add(feature_codec.decode(stored), encoder.reference().features(pixels_1CHW))
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
    localizer = locator.localizer
    pixels_1CHW = localizer.normalise(sam_pixels)[None]
    found = locator.locate(image.record, localizer.embed(pixels_1CHW))
    reference = localizer.reference()
    wanted = replace(locator, localizer=reference, grid=None).locate(
        found.record, reference.embed(pixels_1CHW)
    )
    return found.tokens.to(torch.float16), wanted.tokens


class _SquareSums:
    """Sums of squares over all images, in float64."""

    def __init__(self) -> None:
        self._errors = self._numbers = 0.0

    def add(self, found: Tensor, wanted: Tensor) -> None:
        self._errors += float((found.double() - wanted.double()).square().sum())
        self._numbers += float(wanted.double().square().sum())

    def relative_error(self) -> float | None:
        if not self._numbers:
            return None
        return float(f"{(self._errors / self._numbers) ** 0.5:.2g}")


MAX_DISTANCE: Final = 0.35
"""Largest `feature_distance` that counts as the same image: about the geometric mean of the
largest measured for the same image and the smallest for two images. On photos, plain colours and
noise with the toy CLIP and a random ViT-B/32, the same image is at most 0.09 away in bfloat16 and
0.11 as int8 with one scale per token, another image at least 1.2; so are all pairs of 150 toy
images. Two machines or versions of torch in float32 differ far less than bfloat16 does."""


def feature_distance(found_TD: NDArray[np.floating], wanted_TD: NDArray[np.floating]) -> float:
    """Return the distance of a feature map from another, relative to the variation of the latter.

    It is the median over channels of the root mean square difference, divided by the median over
    channels of the standard deviation over tokens. A plain relative error would not work: CLIP has
    a few huge channels that are nearly the same for all images.

    Args:
        found_TD: A feature map, (T, D).
        wanted_TD: The one to compare with, (T, D).

    Returns:
        0 for equal ones, about 1 or more for two images; infinite or NaN if ``wanted_TD`` does not
        vary.
    """
    found, wanted = found_TD.astype(np.float64), wanted_TD.astype(np.float64)
    errors_D = np.sqrt(((found - wanted) ** 2).mean(axis=0))
    if not errors_D.any():
        return 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.median(errors_D) / np.median(wanted.std(axis=0)))


def check_same_images(job: CacheJob, old_cache: OldCache, shard_index: int) -> None:
    """Compare the first readable reused image of a shard with the cached one.

    Raises:
        CacheMismatchError: It is another image, or none of them can be read.
        CacheCorruptError: The old cache is damaged.
    """
    preparation = replace(job.preparation, old_cache=None)
    unreadable = None
    for record in job.shard_jobs([shard_index])[0].records:
        reused = old_cache.find(record)
        if reused is None:
            continue
        prepared = preparation.prepare(record)
        if isinstance(prepared, QuarantinedImage):
            unreadable = unreadable or prepared
        elif prepared.clip_pixels is not None:
            _check_same(old_cache, prepared, reused, _feature_map(job, prepared.clip_pixels))
            return
    if unreadable is not None:
        raise CacheMismatchError(
            f"shard {shard_index}: none of the images that {old_cache.cache.location} holds can be"
            " read, so it is unknown whether it is of the same images. The first one:"
            f" {unreadable.file_name} {unreadable.reason}. Check --annotations.images_dir, or leave"
            " --reuse out."
        )


def _check_same(
    old_cache: OldCache,
    prepared: PreparedImage,
    reused: Reused,
    feature_map_TD: NDArray[np.float32],
) -> None:
    old_hw, new_hw = reused.sample.size_hw, prepared.record.size_hw
    found = f"was {old_hw[1]} x {old_hw[0]} pixels there and is {new_hw[1]} x {new_hw[0]} now"
    if old_hw == new_hw:
        distance = feature_distance(
            feature_map_TD, old_cache.cache.features(reused.sample).float().numpy()
        )
        if distance <= MAX_DISTANCE:
            return
        found = (
            f"looks different: its CLIP feature map differs by {distance:.2f} times its own"
            f" variation; wanted at most {MAX_DISTANCE}"
        )
    raise CacheMismatchError(
        f"{old_cache.cache.location} is of other images: {prepared.record.file_name}, its image"
        f" {prepared.record.key}, {found}. Check --annotations.images_dir, or leave --reuse out."
    )


@torch.inference_mode()
def _feature_map(job: CacheJob, clip_pixels: Tensor) -> NDArray[np.float32]:
    encoder = job.models.encoder
    return encoder.features(encoder.normalise(clip_pixels[None]))[0].float().cpu().numpy()
