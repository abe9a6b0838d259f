"""Name regions from pixels without a head: the paper's two CLIP baselines, and two controls.

- ``clip_box_crop``: crop the box, squash it to CLIP's input, compare its image embedding with the
  class names.
- ``clip_mask_crop``: the same, with what lies outside SAM's predicted mask painted grey.
- ``grey_outside_mask`` (control): the whole image at its own size, everything outside the mask
  grey, so that scale and place are kept and context is not.
- ``pooled_patches`` (control): patch tokens of the whole image, pooled over the box; see
  `patch_pooling`.

One pass over the images serves all the methods asked for: each image is decoded once, and SAM
segments it once.
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
"""Every method that needs pixels and no head, in the order of the report."""

_Item = TypeVar("_Item")
_MASKED: frozenset[PixelMethod] = frozenset({"clip_mask_crop", "grey_outside_mask"})


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptedImage:
    """An image on disk and the boxes in it that want names."""

    image_id: int
    """The data set's own image id."""
    path: Path
    """The image file."""
    boxes_xyxy: FloatArray
    """Boxes, (R, 4) float32, pixels of the original image; what lies outside of it is cut off."""
    box_scores: NDArray[np.float32] | None = None
    """A detector's confidence in each box, (R,), handed through to the scores."""


def score_clip_crops(
    models: FrozenModels,
    images: Iterable[PromptedImage],
    text_bank: TextBank,
    *,
    method: PixelMethod,
) -> Iterator[RegionScores]:
    """Score regions by one method; see `score_pixel_methods`, which does several at once."""
    for by_method in score_pixel_methods(models, images, text_bank, methods=[method]):
        yield by_method[method]


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
        images: Images with their boxes, read as they come.
        text_bank: Unit-norm class embeddings, (C, E), of the same CLIP.
        methods: The methods wanted.
        image_batch_size: Images decoded, and looked at by SAM and CLIP, at once.
        crop_batch_size: Crops encoded at once. With ``image_batch_size`` it bounds the memory;
            neither changes the scores.

    Returns:
        For each image, in order, the scores of every method; probabilities over the vocabulary. An
        image without boxes yields zero rows.

    Raises:
        ConfigError: A method is unknown, none is given, or a batch size is not positive; or
            pooled_patches is wanted of a CLIP that gives single patches no place in its text space.
        ShapeError: The text bank or some boxes have a wrong shape.
        MissingFileError: An image file does not exist.
    """
    unknown = sorted(set(methods) - set(PIXEL_METHODS))
    if unknown or not methods:
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
    scorer = _PixelScorer(models, bank_CE, tuple(dict.fromkeys(methods)), crop_batch_size)
    return scorer.score_all(images, image_batch_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class _OpenImage:
    """An image in memory, its boxes cut to it, and room for its scores."""

    pixels: ImageArray
    boxes_xyxy: FloatArray
    scores: Mapping[PixelMethod, NDArray[np.float32]]

    @property
    def size_hw(self) -> tuple[int, int]:
        return self.pixels.shape[0], self.pixels.shape[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Crop:
    """A picture at the encoder's size, (3, H, W) uint8, and the row of scores that it fills."""

    pixels: Tensor
    scores: NDArray[np.float32]


class _PixelScorer:
    """One pass over images; a worker holds at most a batch of images and a batch of crops."""

    def __init__(
        self,
        models: FrozenModels,
        bank_CE: Tensor,
        methods: tuple[PixelMethod, ...],
        crop_batch_size: int,
    ) -> None:
        self._models = models
        self._localizer = models.localizer
        self._encoder = models.encoder
        self._bank_CE = bank_CE
        self._methods = methods
        self._crop_batch_size = crop_batch_size
        self._grey = mean_grey(models.encoder.info.mean)

    def score_all(
        self, images: Iterable[PromptedImage], image_batch_size: int
    ) -> Iterator[Mapping[PixelMethod, RegionScores]]:
        batches = _batches(images, image_batch_size)
        with closing(self._models.map_batches(self._score_batch, batches)) as scored:
            yield from chain.from_iterable(scored)

    @torch.inference_mode()
    def _score_batch(
        self, batch: Sequence[PromptedImage]
    ) -> list[Mapping[PixelMethod, RegionScores]]:
        opened = [self._open(image) for image in batch]
        self._fill_scores(opened)
        return [
            {
                method: RegionScores(
                    image_id=image.image_id,
                    boxes_xyxy=as_boxes(image.boxes_xyxy),
                    scores=filled.scores[method],
                    box_scores=image.box_scores,
                )
                for method in self._methods
            }
            for image, filled in zip(batch, opened, strict=True)
        ]

    def _open(self, image: PromptedImage) -> _OpenImage:
        pixels = load_image(image.path, rotation_log_level=logging.DEBUG)
        boxes = clip_boxes_xyxy(image.boxes_xyxy, (pixels.shape[0], pixels.shape[1]))
        shape = (len(boxes), len(self._bank_CE))
        scores = {method: np.zeros(shape, np.float32) for method in self._methods}
        return _OpenImage(pixels=pixels, boxes_xyxy=boxes, scores=scores)

    def _fill_scores(self, images: Sequence[_OpenImage]) -> None:
        filled = [image for image in images if len(image.boxes_xyxy)]
        if not filled:
            return
        if "pooled_patches" in self._methods:
            self._pool_patches(filled)
        for crops in _batches(self._crops(filled), self._crop_batch_size):
            pixels_NCHW = self._encoder.normalise(torch.stack([crop.pixels for crop in crops]))
            embedded_NE = self._encoder.embed_images(pixels_NCHW).float()
            rows_NC = class_probabilities(
                self._encoder.info.logit_scale * embedded_NE @ self._bank_CE.T
            )
            for crop, row_C in zip(crops, rows_NC, strict=True):
                crop.scores[:] = row_C

    def _pool_patches(self, images: Sequence[_OpenImage]) -> None:
        pixels_BCHW = torch.stack([self._encoder.preprocess(image.pixels) for image in images])
        tokens_BTE = self._encoder.project(self._encoder.features(pixels_BCHW))
        grid_hw = square_grid_hw(tokens_BTE.shape[1] - 1)
        for image, tokens_TE in zip(images, tokens_BTE, strict=True):
            boxes = torch.from_numpy(pixels_to_relative(image.boxes_xyxy, image.size_hw))
            inside_RP = patches_in_boxes(boxes.to(self._bank_CE.device), grid_hw=grid_hw)
            logits_RC = pooled_patch_logits(
                tokens_TE[1:], inside_RP, self._bank_CE, scale=self._encoder.info.logit_scale
            )
            image.scores["pooled_patches"][:] = class_probabilities(logits_RC)

    def _crops(self, images: Sequence[_OpenImage]) -> Iterator[_Crop]:
        cropping = [method for method in self._methods if method != "pooled_patches"]
        if not cropping:
            return
        for image, row, mask in self._regions(images):
            for method in cropping:
                cut = self._cut(method, image.pixels, image.boxes_xyxy[row], mask)
                yield _Crop(pixels=self._encoder.resize(cut), scores=image.scores[method][row])

    def _regions(
        self, images: Sequence[_OpenImage]
    ) -> Iterator[tuple[_OpenImage, int, MaskArray | None]]:
        """Walk over all regions, with their masks where a method needs them."""
        if not _MASKED & set(self._methods):
            yield from (
                (image, row, None) for image in images for row in range(len(image.boxes_xyxy))
            )
            return
        frames_BCHW = torch.stack([self._localizer.preprocess(image.pixels) for image in images])
        embedded_BSHW = self._localizer.embed(frames_BCHW)
        for index, image in enumerate(images):
            boxes = BoxPrompts(boxes_xyxy=image.boxes_xyxy)
            embedded_1SHW = embedded_BSHW[index : index + 1]
            masks = region_masks(self._localizer, embedded_1SHW, boxes, image.size_hw)
            yield from ((image, row, mask) for row, mask in enumerate(masks))

    def _cut(
        self, method: PixelMethod, pixels: ImageArray, box_xyxy: FloatArray, mask: MaskArray | None
    ) -> ImageArray:
        if mask is None or method == "clip_box_crop":
            return box_crop(pixels, box_xyxy)
        if method == "clip_mask_crop":
            return mask_crop(pixels, box_xyxy, mask, self._grey)
        return grey_outside_mask(pixels, box_xyxy, mask, self._grey)


def _batches(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
