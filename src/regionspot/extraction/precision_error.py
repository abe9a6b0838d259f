"""How far the numbers of a precision are from those of float32, on given images.

Shape letters: T feature tokens, D feature width, R regions, S SAM width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from regionspot.backbones import FrozenModels
from regionspot.extraction.locate import LocatedRegions, RegionLocator
from regionspot.extraction.prepare import PreparedImage


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionError:
    """Root mean square of the error over the root mean square of the numbers themselves."""

    feature_maps: float | None
    """Of the feature maps; None without an image."""
    position_tokens: float | None
    """Of the position tokens; None where no image has a region."""


@torch.inference_mode()
def measure_error(
    models: FrozenModels, images: Sequence[PreparedImage], locator: RegionLocator | None = None
) -> PrecisionError:
    """Compare the models, as they are configured, with themselves in float32 and not compiled.

    Images are taken one by one, so that memory does not depend on how many they are. Regions that
    the locator finds itself are found once, in the configured precision: their tokens are compared,
    not which are found.

    Args:
        models: The frozen pair, on its device.
        images: What to compare on.
        locator: What turns regions into tokens; by default from the records' boxes.
    """
    encoder, locator = models.encoder, locator or RegionLocator(localizer=models.localizer)
    maps, tokens = _SquareSums(), _SquareSums()
    for image in images:
        pixels_1CHW = encoder.normalise(image.clip_pixels[None])
        maps.add(encoder.features(pixels_1CHW), encoder.reference().features(pixels_1CHW))
        if image.sam_pixels is not None:
            tokens.add(*_tokens(image, image.sam_pixels, locator))
    return PrecisionError(
        feature_maps=maps.relative_error(), position_tokens=tokens.relative_error()
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
    return found.tokens, wanted.tokens


class _SquareSums:
    """Sums over all images, in float64."""

    def __init__(self) -> None:
        self._errors = self._numbers = 0.0

    def add(self, found: Tensor, wanted: Tensor) -> None:
        self._errors += float((found.double() - wanted.double()).square().sum())
        self._numbers += float(wanted.double().square().sum())

    def relative_error(self) -> float | None:
        return (self._errors / self._numbers) ** 0.5 if self._numbers else None
