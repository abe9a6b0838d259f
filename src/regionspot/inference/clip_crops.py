"""Name regions from pixels without a head: the paper's two CLIP baselines, and two controls.

- ``clip_box_crop``: crop the box, squash it to CLIP's input size, and compare its image embedding
  with the class names.
- ``clip_mask_crop``: the same, with everything outside SAM's predicted mask painted grey.
- ``grey_outside_mask`` (control): the whole image with everything outside the mask painted grey,
  which keeps the region's place and scale but removes its context.
- ``pooled_patches`` (control): patch tokens of the whole image, pooled over the box.

All methods share one pass: each image is decoded and segmented once.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Literal, TypeVar, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regionspot.backbones import BoxPrompts, FrozenModels, region_masks
from regionspot.core.errors import ConfigError
from regionspot.core.geometry import FloatArray, as_boxes, clip_boxes_xyxy, pixels_to_relative
from regionspot.core.patch_grid import patches_in_boxes, square_grid_hw
from regionspot.core.region_scores import RegionScores
from regionspot.inference.crops import (
    ImageArray,
    MaskArray,
    box_crop,
    grey_outside_mask,
    mask_crop,
    mean_grey,
    pooled_patch_logits,
)
from regionspot.inference.from_cache import TextBank, as_text_bank, class_probabilities
from regionspot.inference.inputs import load_image

PixelMethod = Literal["clip_box_crop", "clip_mask_crop", "grey_outside_mask", "pooled_patches"]
PIXEL_METHODS: tuple[PixelMethod, ...] = get_args(PixelMethod)
"""All methods that need pixels and no head, in the order of the report."""

_Item = TypeVar("_Item")
_MASKED: frozenset[PixelMethod] = frozenset({"clip_mask_crop", "grey_outside_mask"})


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


def score_pixel_methods(
    models: FrozenModels,
    images: Iterable[PromptedImage],
    text_bank: TextBank,
    *,
    methods: Sequence[PixelMethod] = PIXEL_METHODS,
    image_batch_size: int = 4,
    crop_batch_size: int = 64,
) -> Iterator[Mapping[PixelMethod, RegionScores]]:
    """Score the regions of images by several methods in one pass.

    Args:
        models: The frozen SAM and CLIP; SAM runs only if a method needs masks.
        images: Images with their boxes; consumed lazily.
        text_bank: Unit-norm class embeddings, (C, E), of the same CLIP.
        methods: The methods.
        image_batch_size: Images decoded, segmented and encoded at once.
        crop_batch_size: Crops encoded at once. With ``image_batch_size`` it bounds the memory;
            neither changes the scores.

    Returns:
        For each image, in order, its scores by method: probabilities over the vocabulary. An image
        without boxes yields zero rows.

    Raises:
        ConfigError: A method is unknown, none is given, or a batch size is not positive; or the
            CLIP does not support pooled_patches, as it cannot project patches to its text space.
        ShapeError: The text bank or some boxes have a wrong shape.
        MissingFileError: An image file does not exist.
    """
    if not methods or set(methods) - set(PIXEL_METHODS):
        raise ConfigError(
            f"methods are {list(methods)}; wanted one or more of {', '.join(PIXEL_METHODS)}."
        )
    if image_batch_size < 1 or crop_batch_size < 1:
        raise ConfigError(
            f"image_batch_size is {image_batch_size} and crop_batch_size {crop_batch_size}; wanted"
            " 1 or more."
        )
    if "pooled_patches" in methods:
        models.encoder.check_projects_patches()
    bank_CE = as_text_bank(
        text_bank, text_dim=models.encoder.info.text_dim, device=models.encoder.device
    )
    scorer = _PixelScorer(
        models=models,
        bank_CE=bank_CE,
        methods=tuple(dict.fromkeys(methods)),
        crop_batch_size=crop_batch_size,
    )
    return scorer.score_all(images, image_batch_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class _OpenImage:
    """A decoded image, its boxes clipped to it, and room for its scores."""

    pixels: ImageArray
    boxes_xyxy: FloatArray
    scores: Mapping[PixelMethod, RegionScores]

    @property
    def size_hw(self) -> tuple[int, int]:
        return self.pixels.shape[0], self.pixels.shape[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class _PixelScorer:
    """One pass over images; a worker holds at most a batch of images and a batch of crops."""

    models: FrozenModels
    bank_CE: Tensor  # noqa: N815 - shape letters
    methods: tuple[PixelMethod, ...]
    crop_batch_size: int

    def score_all(
        self, images: Iterable[PromptedImage], image_batch_size: int
    ) -> Iterator[Mapping[PixelMethod, RegionScores]]:
        batches = _batches(images, image_batch_size)
        with closing(self.models.map_batches(self._score_batch, batches)) as scored:
            yield from chain.from_iterable(scored)

    @torch.inference_mode()
    def _score_batch(
        self, batch: Sequence[PromptedImage]
    ) -> list[Mapping[PixelMethod, RegionScores]]:
        opened = [self._open(image) for image in batch]
        with_boxes = [image for image in opened if len(image.boxes_xyxy)]
        if with_boxes and "pooled_patches" in self.methods:
            self._pool_patches(with_boxes)
        if with_boxes:
            self._embed_crops(with_boxes)
        return [image.scores for image in opened]

    def _open(self, image: PromptedImage) -> _OpenImage:
        pixels = load_image(image.path, rotation_log_level=logging.DEBUG)
        boxes = clip_boxes_xyxy(image.boxes_xyxy, (pixels.shape[0], pixels.shape[1]))
        scores = {
            method: RegionScores(
                image_id=image.image_id,
                boxes_xyxy=as_boxes(image.boxes_xyxy),
                scores=np.zeros((len(boxes), len(self.bank_CE)), np.float32),
                box_scores=image.box_scores,
            )
            for method in self.methods
        }
        return _OpenImage(pixels=pixels, boxes_xyxy=boxes, scores=scores)

    def _pool_patches(self, images: Sequence[_OpenImage]) -> None:
        encoder = self.models.encoder
        pixels_BCHW = torch.stack([encoder.preprocess(image.pixels) for image in images])
        tokens_BTE = encoder.project(encoder.features(pixels_BCHW))
        grid_hw = square_grid_hw(tokens_BTE.shape[1] - 1)
        for image, tokens_TE in zip(images, tokens_BTE, strict=True):
            boxes = torch.from_numpy(pixels_to_relative(image.boxes_xyxy, image.size_hw))
            inside_RP = patches_in_boxes(boxes.to(self.bank_CE.device), grid_hw=grid_hw)
            logits_RC = pooled_patch_logits(
                tokens_TE[1:], inside_RP, self.bank_CE, scale=encoder.info.logit_scale
            )
            image.scores["pooled_patches"].scores[:] = class_probabilities(logits_RC)

    def _embed_crops(self, images: Sequence[_OpenImage]) -> None:
        encoder = self.models.encoder
        for batch in _batches(self._crops(images), self.crop_batch_size):
            pixels_NCHW = encoder.normalise(torch.stack([crop for crop, _ in batch]))
            embedded_NE = encoder.embed_images(pixels_NCHW).float()
            rows_NC = class_probabilities(encoder.info.logit_scale * embedded_NE @ self.bank_CE.T)
            for (_, scores_C), row_C in zip(batch, rows_NC, strict=True):
                scores_C[:] = row_C

    def _crops(self, images: Sequence[_OpenImage]) -> Iterator[tuple[Tensor, NDArray[np.float32]]]:
        """Yield crops at the encoder's size, (3, H, W) uint8, and the row of scores of each."""
        cropping = [method for method in self.methods if method != "pooled_patches"]
        if not cropping:
            return
        grey = mean_grey(self.models.encoder.info.mean)
        for image, masks in zip(images, self._masks(images), strict=True):
            for row, mask in enumerate(masks):
                for method in cropping:
                    crop = _crop(method, image.pixels, image.boxes_xyxy[row], mask, grey)
                    scores_C = image.scores[method].scores[row]
                    yield self.models.encoder.resize(crop), scores_C

    def _masks(self, images: Sequence[_OpenImage]) -> Iterator[Iterable[MaskArray | None]]:
        """Yield the masks of each image, which are None if no method needs them."""
        if not _MASKED & set(self.methods):
            yield from ([None] * len(image.boxes_xyxy) for image in images)
            return
        localizer = self.models.localizer
        frames_BCHW = torch.stack([localizer.preprocess(image.pixels) for image in images])
        embedded_BSHW = localizer.embed(frames_BCHW)
        for index, image in enumerate(images):
            boxes = BoxPrompts(boxes_xyxy=image.boxes_xyxy)
            yield region_masks(localizer, embedded_BSHW[index : index + 1], boxes, image.size_hw)


def _crop(
    method: PixelMethod,
    pixels: ImageArray,
    box_xyxy: FloatArray,
    mask: MaskArray | None,
    grey: ImageArray,
) -> ImageArray:
    if mask is None or method == "clip_box_crop":
        return box_crop(pixels, box_xyxy)
    cut = mask_crop if method == "clip_mask_crop" else grey_outside_mask
    return cut(pixels, box_xyxy, mask, grey)


def _batches(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
