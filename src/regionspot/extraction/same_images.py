"""Makes sure that a cache that is reused is of the same images, not of others with the same keys.

Keys are often numbers, and two data sets may both have an image 000000000042 of 640 x 480 pixels.
So the first image of each shard that is taken over goes through CLIP anyway, alone, and what comes
out is compared. Nothing that is stored depends on it. T tokens, D channels.
"""

from dataclasses import replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regionspot.cache import QuarantinedImage
from regionspot.core.errors import CacheMismatchError
from regionspot.extraction.job import CacheJob
from regionspot.extraction.prepare import PreparedImage
from regionspot.extraction.reuse import OldCache, Reused

MAX_DISTANCE: Final = 0.35
"""Largest `feature_distance` that counts as the same image: about the geometric mean of the
largest measured for the same image and the smallest for two. Photos, plain colours and noise with
the toy CLIP and a random ViT-B/32: the same image is at most 0.09 away in bfloat16 and 0.11 as int8
with one scale a token, another image at least 1.2. All pairs of 150 toy images: at least 1.2, too.
Two machines or versions of torch in float32 differ far less than bfloat16 does."""


def feature_distance(found_TD: NDArray[np.floating], wanted_TD: NDArray[np.floating]) -> float:
    """Return how far a feature map is from another, as a share of how much that one varies.

    Of each channel the root mean square difference is taken, and the standard deviation over the
    tokens; the distance is the median of the former over the median of the latter. A plain relative
    error would be blind: CLIP has a few huge channels that are nearly the same for all images.

    Args:
        found_TD: A feature map, (T, D).
        wanted_TD: The one to compare with, (T, D).

    Returns:
        0 for equal ones, about 1 or more for two images; infinite or not a number if ``wanted_TD``
        does not vary.
    """
    found, wanted = found_TD.astype(np.float64), wanted_TD.astype(np.float64)
    errors_D = np.sqrt(((found - wanted) ** 2).mean(axis=0))
    if not errors_D.any():
        return 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.median(errors_D) / np.median(wanted.std(axis=0)))


def check_same_images(job: CacheJob, old_cache: OldCache, shard_index: int) -> None:
    """Compare the first image of a shard that is taken over and can be read with the cached one.

    Raises:
        CacheMismatchError: It is another image, or none of them can be read.
        CacheCorruptError: The old cache is damaged there.
        ShapeError: The models cannot take the image.
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
            f"shard {shard_index}: none of the images that {old_cache.location} holds can be read,"
            " so nobody can tell whether it is of the same images. The first one:"
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
        distance = feature_distance(feature_map_TD, reused.sample.features().float().numpy())
        if distance <= MAX_DISTANCE:
            return
        found = (
            f"looks otherwise: CLIP's feature map of it differs by {distance:.2f} of what it varies"
            f" by; wanted at most {MAX_DISTANCE}"
        )
    raise CacheMismatchError(
        f"{old_cache.location} is of other images: {prepared.record.file_name}, its image"
        f" {prepared.record.key}, {found}. Check --annotations.images_dir, or leave --reuse out."
    )


@torch.inference_mode()
def _feature_map(job: CacheJob, clip_pixels: Tensor) -> NDArray[np.float32]:
    encoder = job.models.encoder
    return encoder.features(encoder.normalise(clip_pixels[None]))[0].float().cpu().numpy()
