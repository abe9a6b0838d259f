"""Runs the frozen models on prepared images: samples, ready to store."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regionspot.backbones import FrozenModels
from regionspot.backbones.execution import HostCopies
from regionspot.backbones.presets import Precision
from regionspot.cache import CachedSample, CodecName, find_codec
from regionspot.core.errors import WeightsError
from regionspot.extraction.locate import LocatedRecord, RegionLocator
from regionspot.extraction.prepare import PreparedImage


def featurize(
    models: FrozenModels,
    images: Sequence[PreparedImage],
    locator: RegionLocator | None = None,
    *,
    codec: CodecName = "float16",
) -> list[CachedSample]:
    """Compute one sample per image, in order.

    Args:
        models: The frozen models, on their device.
        images: One batch for both models; may be empty.
        locator: Computes tokens with the localizer of ``models``; by default from the records'
            boxes.
        codec: How feature maps are stored.

    Raises:
        WeightsError: A model's output is not finite, or too large for float16.
    """
    return launch(models, images, locator, codec=codec).wait() if images else []


@torch.inference_mode()
def launch(
    models: FrozenModels,
    images: Sequence[PreparedImage],
    locator: RegionLocator | None = None,
    *,
    codec: CodecName = "float16",
) -> "LaunchedBatch":
    """Begin to featurize at least one image; arguments as in `featurize`.

    On a CUDA device the work, including the copies back, is only queued, so that the next batch can
    be queued behind it at once. On a CPU it is done when this returns.
    """
    encoder, locator = models.encoder, locator or RegionLocator(localizer=models.localizer)
    maps = tokens = ious = torch.zeros(0, device=encoder.device)
    frames = [image.clip_pixels for image in images if image.clip_pixels is not None]
    if frames:
        features_BTD = encoder.features(encoder.normalise(torch.stack(frames)))
        maps = find_codec(codec).encode(features_BTD)
    regions = _locate(images, locator)
    pairs = zip(images, regions, strict=True)
    computed = [of_image for image, of_image in pairs if not image.has_reused_tokens]
    if computed:
        tokens = torch.cat([of_image.tokens for of_image in computed]).to(torch.float16)
        ious = torch.cat([of_image.predicted_iou for of_image in computed])
    return LaunchedBatch(
        images=images,
        regions=regions,
        computed=HostCopies.start(maps, tokens, ious),
        precision=models.precision,
        codec=codec,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchedBatch:
    """A batch of images that is being computed."""

    images: Sequence[PreparedImage]
    """The images."""
    regions: Sequence[LocatedRecord]
    """Their regions with their tokens."""
    computed: HostCopies
    """Encoded feature maps, position tokens, (sum of R, S) float16, and predicted IoUs, (sum of R,)
    float32; without reused ones."""
    precision: Precision
    """Precision of the computation."""
    codec: CodecName
    """How feature maps are stored."""

    def wait(self) -> list[CachedSample]:
        """Wait for the samples and return them in order; may be called from any thread.

        Raises:
            WeightsError: See `featurize`.
        """
        maps, tokens_RS, ious_R = self.computed.wait()
        arrays = zip(self._answers(tokens_RS, ious_R), self._maps(maps), strict=True)
        return [
            CachedSample(
                key=image.record.key,
                image_id=image.record.image_id,
                size_hw=image.record.size_hw,
                boxes_xyxy=regions.record.boxes_xyxy,
                labels=regions.record.labels,
                box_scores=regions.box_scores,
                position_tokens=tokens,
                feature_map=feature_map,
                predicted_iou=ious,
                masks_rle=regions.masks_rle,
                file_name=image.record.file_name,
                num_clipped_regions=image.num_clipped,
                num_dropped_regions=image.num_dropped + regions.num_dropped,
            )
            for image, regions, ((tokens, ious), feature_map) in zip(
                self.images, self.regions, arrays, strict=True
            )
        ]

    def _answers(
        self, tokens_RS: Tensor, ious_R: Tensor
    ) -> Iterator[tuple[NDArray[np.float16], NDArray[np.float32]]]:
        """Yield the position tokens and predicted IoUs of each image."""
        start = 0
        for image, regions in zip(self.images, self.regions, strict=True):
            if image.has_reused_tokens:
                yield regions.tokens.numpy(), regions.predicted_iou.numpy()
                continue
            own = slice(start, start + len(regions.tokens))
            start = own.stop
            tokens, ious = tokens_RS[own].numpy(), ious_R[own].numpy()
            if not (np.isfinite(tokens).all() and np.isfinite(ious).all()):
                raise self._not_finite(image, "SAM", "float16")
            yield tokens, ious

    def _maps(self, computed: Tensor) -> Iterator[NDArray[np.generic]]:
        codec = find_codec(self.codec)
        maps = iter(codec.to_array(computed))
        for image in self.images:
            if image.reused is not None:
                yield image.reused.sample.feature_map
                continue
            feature_map = next(maps)
            if not codec.all_finite(feature_map):
                raise self._not_finite(image, "CLIP", self.codec)
            yield feature_map

    def _not_finite(self, image: PreparedImage, model: str, stored_as: str) -> WeightsError:
        advice = f"Check --models.{model.lower()}_weights."
        if self.precision == "float16":
            advice = "Set --models.precision to bfloat16 or float32; else c" + advice[1:]
        elif model == "CLIP" and stored_as == "float16":
            advice += " If its numbers are only too large, give --codec bfloat16."
        return WeightsError(
            f"{model}'s output for image {image.record.key} ({image.record.file_name}) is not"
            f" finite in {stored_as}: its weights are damaged or belong to another model. {advice}"
        )


def _locate(images: Sequence[PreparedImage], locator: RegionLocator) -> list[LocatedRecord]:
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
