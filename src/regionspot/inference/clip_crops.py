"""Name regions from pixels without a head: the paper's two CLIP baselines, and two controls.

- ``clip_box_crop``: crop the box, squash it to CLIP's input size, and compare its image embedding
  with the class names.
- ``clip_mask_crop``: the same, with everything outside SAM's predicted mask painted grey.
- ``grey_outside_mask`` (control): the whole image with everything outside the mask painted grey,
  which keeps the region's place and scale but removes its context.
- ``pooled_patches`` (control): patch tokens of the whole image, pooled over the box.

All methods share one pass: each image is decoded and segmented once. Images are uint8 RGB arrays
(H, W, 3); boxes are in pixels of the original image.
"""

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from regionspot.backbones import FrozenModels
from regionspot.core.errors import ConfigError
from regionspot.core.geometry import FloatArray, as_boxes, clip_boxes_xyxy, pixels_to_relative
from regionspot.core.patch_grid import patches_in_boxes, square_grid_hw
from regionspot.core.region_scores import RegionScores
from regionspot.inference.from_cache import TextBank, as_text_bank, class_probabilities
from regionspot.inference.inputs import load_image
from regionspot.inference.prompted_images import PromptedImage, in_batches, masks_of_boxes

ImageArray = NDArray[np.uint8]
MaskArray = NDArray[np.bool_]
PixelMethod = Literal["clip_box_crop", "clip_mask_crop", "grey_outside_mask", "pooled_patches"]
PIXEL_METHODS: tuple[PixelMethod, ...] = get_args(PixelMethod)
"""All methods that need pixels and no head, in the order of the report."""

_MASKED: frozenset[PixelMethod] = frozenset({"clip_mask_crop", "grey_outside_mask"})


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
        batches = in_batches(images, image_batch_size)
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
        for batch in in_batches(self._crops(images), self.crop_batch_size):
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
        yield from masks_of_boxes(
            self.models.localizer, [(image.pixels, image.boxes_xyxy) for image in images]
        )


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


def pixel_box(box_xyxy: FloatArray, size_hw: tuple[int, int]) -> tuple[int, int, int, int]:
    """Widen one box, (4,), to the whole pixels it touches, at least one pixel inside the image.

    A box thinner than a pixel, or outside the image, becomes the nearest pixel row or column.

    Returns:
        ``(x1, y1, x2, y2)``, half-open: ``image[y1:y2, x1:x2]``.
    """
    limits_xy = np.array([size_hw[1], size_hw[0]])
    start = np.clip(np.floor(box_xyxy[:2]), 0, limits_xy - 1).astype(np.int64)
    stop = np.clip(np.ceil(box_xyxy[2:]), start + 1, limits_xy).astype(np.int64)
    return int(start[0]), int(start[1]), int(stop[0]), int(stop[1])


def box_crop(image: ImageArray, box_xyxy: FloatArray) -> ImageArray:
    """Cut the box out of the image: a view of at least (1, 1, 3)."""
    x1, y1, x2, y2 = pixel_box(box_xyxy, (image.shape[0], image.shape[1]))
    return image[y1:y2, x1:x2]


def mask_crop(
    image: ImageArray, box_xyxy: FloatArray, mask: MaskArray, grey: ImageArray
) -> ImageArray:
    """Cut the box out of the image and paint everything outside the mask grey.

    A mask without a pixel in the box says nothing about the region and is ignored.

    Args:
        image: The whole image, (H, W, 3) uint8 RGB.
        box_xyxy: One box, (4,), original pixels.
        mask: The region at the image's size, (H, W) bool.
        grey: The fill colour, (3,) uint8 RGB.
    """
    x1, y1, x2, y2 = pixel_box(box_xyxy, (image.shape[0], image.shape[1]))
    inside, crop = mask[y1:y2, x1:x2], image[y1:y2, x1:x2]
    return np.where(inside[..., None], crop, grey) if inside.any() else crop


def grey_outside_mask(
    image: ImageArray, box_xyxy: FloatArray, mask: MaskArray, grey: ImageArray
) -> ImageArray:
    """Paint everything outside the mask grey, and keep the image's size.

    The mask is not cut to the box. An empty mask is replaced by the box, so that some of the region
    stays visible. Arguments as in `mask_crop`.
    """
    if not mask.any():
        x1, y1, x2, y2 = pixel_box(box_xyxy, (image.shape[0], image.shape[1]))
        mask = np.zeros_like(mask)
        mask[y1:y2, x1:x2] = True
    return np.where(mask[..., None], image, grey)


def mean_grey(mean: tuple[float, float, float]) -> ImageArray:
    """Return the colour, (3,) uint8 RGB, that a CLIP with this input mean sees as (nearly) zero.

    Args:
        mean: The encoder's input mean by channel, as fractions of full brightness.
    """
    return np.rint(np.array(mean) * 255).astype(np.uint8)


def pooled_patch_logits(
    patches_PE: Tensor, inside_RP: Tensor, text_bank_CE: Tensor, *, scale: float
) -> Tensor:
    """Pool the logits of CLIP's own patch tokens over each region by log-mean-exp.

    Nothing is trained and no crop is encoded: a fusion head that is not better than this control
    has only learned to look up its box.

    Args:
        patches_PE: Patch tokens after CLIP's final norm and projection, (P, E), without the class
            token; normalised here.
        inside_RP: Which patches belong to each region, (R, P) bool, no row empty.
        text_bank_CE: Unit-norm class embeddings, (C, E).
        scale: CLIP's logit scale.

    Returns:
        Logits, (R, C): between the mean and the maximum of the region's patch logits.
    """
    logits_PC = scale * F.normalize(patches_PE.float(), dim=-1) @ text_bank_CE.T
    pooled = [
        logits_PC[inside_P].logsumexp(dim=0) - math.log(int(inside_P.sum()))
        for inside_P in inside_RP
    ]
    return torch.stack(pooled) if pooled else logits_PC.new_zeros((0, len(text_bank_CE)))
