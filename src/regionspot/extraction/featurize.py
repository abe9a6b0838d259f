"""Runs the frozen models on prepared images: position tokens and feature maps, ready to store."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regionspot.backbones import FrozenModels
from regionspot.backbones.device import HostCopies
from regionspot.backbones.presets import Precision
from regionspot.cache import CachedSample
from regionspot.core.errors import WeightsError
from regionspot.extraction.locate import LocatedRegions, RegionLocator
from regionspot.extraction.prepare import PreparedImage


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
    return launch(models, images, locator).wait() if images else []


@torch.inference_mode()
def launch(
    models: FrozenModels, images: Sequence[PreparedImage], locator: RegionLocator | None = None
) -> "LaunchedBatch":
    """Begin to featurize at least one image; arguments as in `featurize`.

    On a CUDA device the work is only queued, the copies back among it, so that the next batch can
    be queued behind it at once. On a CPU it is done when this returns.
    """
    encoder, locator = models.encoder, locator or RegionLocator(localizer=models.localizer)
    pixels_BCHW = encoder.normalise(torch.stack([image.clip_pixels for image in images]))
    maps_BTD = encoder.features(pixels_BCHW)
    regions = _locate(images, locator)
    tokens_RS = torch.cat([of_image.tokens for of_image in regions])
    return LaunchedBatch(
        images=images,
        regions=regions,
        maps_and_tokens=HostCopies.start(maps_BTD.to(torch.float16), tokens_RS.to(torch.float16)),
        precision=models.precision,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchedBatch:
    """Images whose numbers are being computed."""

    images: Sequence[PreparedImage]
    """The images."""
    regions: Sequence[LocatedRegions]
    """Their regions."""
    maps_and_tokens: HostCopies
    """Feature maps, (B, T, D), and the position tokens of all images, (sum of R, S), float16."""
    precision: Precision
    """What was computed in."""

    def wait(self) -> list[CachedSample]:
        """Return the samples, in order, once they are there; may be called from any thread.

        Raises:
            WeightsError: See `featurize`.
        """
        maps_BTD, tokens_RS = self.maps_and_tokens.wait()
        tokens_of = tokens_RS.split([len(of_image.tokens) for of_image in self.regions])
        return [
            CachedSample(
                key=image.record.key,
                image_id=image.record.image_id,
                size_hw=image.record.size_hw,
                boxes_xyxy=regions.boxes_xyxy,
                labels=regions.labels,
                box_scores=regions.box_scores,
                position_tokens=self._finite(own_tokens_RS, image, "SAM"),
                feature_map=self._finite(map_TD, image, "CLIP"),
                num_clipped_regions=image.num_clipped,
                num_dropped_regions=image.num_dropped + regions.num_dropped,
            )
            for image, regions, own_tokens_RS, map_TD in zip(
                self.images, self.regions, tokens_of, maps_BTD, strict=True
            )
        ]

    def _finite(self, halves: Tensor, image: PreparedImage, model: str) -> NDArray[np.float16]:
        values = halves.numpy()
        if not np.isfinite(values).all():
            advice = f"Check --models.{model.lower()}_weights."
            if self.precision == "float16":
                advice = "Set --models.precision to bfloat16 or float32; else c" + advice[1:]
            raise WeightsError(
                f"{model}'s output for image {image.record.key} ({image.record.file_name}) is not"
                f" finite in float16: its weights are damaged or belong to another model. {advice}"
            )
        return values


def _locate(images: Sequence[PreparedImage], locator: RegionLocator) -> list[LocatedRegions]:
    localizer = locator.localizer
    frames = [localizer.normalise(i.sam_pixels) for i in images if i.sam_pixels is not None]
    embeddings = iter(localizer.embed(torch.stack(frames)) if frames else ())
    return [
        locator.locate(image.record, None if image.sam_pixels is None else next(embeddings)[None])
        for image in images
    ]
