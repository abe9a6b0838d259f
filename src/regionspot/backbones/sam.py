"""The localizer: the frozen SAM, from an image's pixels to position tokens and masks.

Shape letters: B images, R regions, K points a region, S SAM's width, H W a grid or an image.
"""

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regionspot.backbones.mask_prompts import mask_extents, mask_logits
from regionspot.backbones.pixels import ImageArray, check_image, resize_bilinear
from regionspot.backbones.position_tokens import position_tokens
from regionspot.backbones.presets import TokenSite
from regionspot.backbones.prompts import SamPrompts, decode_masks, decode_tokens, token_dim
from regionspot.backbones.sam_grid import GridProposals, GridProposer
from regionspot.backbones.sam_models import SamShape, build_sam, load_sam
from regionspot.core.errors import ShapeError
from regionspot.core.geometry import (
    FloatArray,
    as_boxes,
    clip_boxes_xyxy,
    points_to_sam_frame,
    resized_size_hw,
    to_sam_frame,
)

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

__all__ = ["SAM_RESIZE", "Localizer", "MaskPrompt", "SamShape", "build_sam", "load_sam"]

SAM_RESIZE = "longest-side bilinear antialias uint8 (PIL), normalise, pad with zeros"
"""How images become SAM's input; part of a cache's fingerprint."""

MaskPrompt = Literal["box", "box_and_mask", "mask"]
"""How a mask is put to SAM: by its extent, by extent and shape, or by its shape alone."""

_TOLERANCE_PX = 1.0
_TOKEN_CHUNK = 64
_MASK_CHUNK = 16


class Localizer:
    """The frozen SAM with its input and output in pixels of the original image.

    An image is embedded once; tokens and masks of any number of prompts follow from the embedding.
    """

    def __init__(self, sam: "Sam", *, token_site: TokenSite, model_name: str) -> None:
        """Wrap a SAM.

        Args:
            sam: A frozen SAM in eval mode, for instance from `load_sam`.
            token_site: Where position tokens are read.
            model_name: Name of the SAM, for fingerprints.
        """
        self.sam = sam
        self.token_site = token_site
        self.model_name = model_name

    @property
    def image_size(self) -> int:
        """Side of SAM's square frame in pixels."""
        return int(self.sam.image_encoder.img_size)

    @property
    def token_dim(self) -> int:
        """Width of the position tokens."""
        return token_dim(self.sam, self.token_site)

    @property
    def device(self) -> torch.device:
        """Where SAM is."""
        return torch.device(self.sam.device)

    def to(self, device: torch.device) -> "Localizer":
        """Move SAM to a device, and return this localizer."""
        self.sam.to(device)
        return self

    def resize(self, image: ImageArray) -> Tensor:
        """Bring the long side to `image_size`, pixel for pixel as ``SamPredictor`` does.

        Args:
            image: (H, W, 3) uint8 RGB.

        Returns:
            (3, h, w) uint8 on the CPU.

        Raises:
            ShapeError: The image is not (H, W, 3) uint8, or too elongated to keep a pixel.
        """
        size_hw = check_image(image)
        resized = resize_bilinear(image, resized_size_hw(size_hw, self.image_size))
        return torch.from_numpy(resized).permute(2, 0, 1)

    def normalise(self, resized: Tensor) -> Tensor:
        """Normalise the output of `resize`, (3, h, w), then pad it with zeros to (3, S, S).

        The work is done on SAM's device: bytes are cheaper to move there than floats.
        """
        pixels: Tensor = self.sam.preprocess(resized.to(self.device))
        return pixels

    def preprocess(self, image: ImageArray) -> Tensor:
        """Turn an image into SAM's input, as ``SamPredictor.set_image`` does.

        Args:
            image: (H, W, 3) uint8 RGB.

        Returns:
            (3, `image_size`, `image_size`) float32, on SAM's device.

        Raises:
            ShapeError: See `resize`.
        """
        return self.normalise(self.resize(image))

    @torch.no_grad()
    def embed(self, pixels_BCHW: Tensor) -> Tensor:
        """Embed preprocessed images, (B, 3, `image_size`, `image_size`), to (B, S, H, W)."""
        embedding: Tensor = self.sam.image_encoder(pixels_BCHW.to(self.device))
        return embedding

    @torch.no_grad()
    def tokens(
        self, image_embedding: Tensor, boxes_xyxy: FloatArray, size_hw: tuple[int, int]
    ) -> Tensor:
        """Return the position tokens of boxes.

        Args:
            image_embedding: One image's embedding, (1, S, H, W).
            boxes_xyxy: Boxes, (R, 4), pixels of the original image. They may overshoot the image by
                a pixel, as rounding makes them, and are cut there.
            size_hw: Height and width of the original image in pixels.

        Returns:
            (R, `token_dim`), on SAM's device.

        Raises:
            ShapeError: The boxes are not (R, 4), or reach outside the image.
        """
        boxes_R4 = self._boxes_sam(boxes_xyxy, size_hw)
        return position_tokens(
            self.sam, image_embedding, boxes_R4, site=self.token_site, chunk_size=_TOKEN_CHUNK
        )

    @torch.no_grad()
    def tokens_from_points(
        self,
        image_embedding: Tensor,
        points_xy: FloatArray,
        point_labels: NDArray[np.int64],
        size_hw: tuple[int, int],
    ) -> Tensor:
        """Return the position tokens of regions given by points.

        Args:
            image_embedding: One image's embedding, (1, S, H, W).
            points_xy: Points, (R, K, 2), pixels of the original image.
            point_labels: What each point says, (R, K): 1 in the region, 0 not in it, -1 padding.
            size_hw: Height and width of the original image in pixels.

        Returns:
            (R, `token_dim`), on SAM's device.

        Raises:
            ShapeError: The shapes do not correspond, or a point that is not padding lies outside
                the image; or the token site is "prompt_encoder" and K is not 1.
        """
        prompts = self._point_prompts(points_xy, point_labels, size_hw)
        return self._tokens(image_embedding, prompts)

    @torch.no_grad()
    def tokens_from_masks(
        self, image_embedding: Tensor, masks: NDArray[np.bool_], *, prompt: MaskPrompt = "box"
    ) -> Tensor:
        """Return the position tokens of regions given by masks.

        Args:
            image_embedding: One image's embedding, (1, S, H, W).
            masks: Masks of the original image's size, (R, H, W) bool, none of them empty.
            prompt: "box" prompts with each mask's extent: a token of the kind that heads are
                trained on. "box_and_mask" shows SAM the shape as well, as in its own refinement
                steps; "mask" shows the shape alone. Both need a SAM that was trained with mask
                prompts, which the tiny one was not.

        Returns:
            (R, `token_dim`), on SAM's device.

        Raises:
            ShapeError: The masks are not (R, H, W) bool, or one is empty.
        """
        return self._tokens(image_embedding, self._mask_prompts(masks, prompt))

    @torch.no_grad()
    def masks(
        self, image_embedding: Tensor, boxes_xyxy: FloatArray, size_hw: tuple[int, int]
    ) -> NDArray[np.bool_]:
        """Return SAM's single-mask answers to boxes, (R, H, W) bool at the original size.

        Arguments and errors as in `tokens`.
        """
        prompts = SamPrompts(boxes_xyxy_sam=self._boxes_sam(boxes_xyxy, size_hw))
        return self._masks(image_embedding, prompts, size_hw)

    @torch.no_grad()
    def masks_from_points(
        self,
        image_embedding: Tensor,
        points_xy: FloatArray,
        point_labels: NDArray[np.int64],
        size_hw: tuple[int, int],
    ) -> NDArray[np.bool_]:
        """Return SAM's single-mask answers to points, (R, H, W) bool at the original size.

        Arguments and errors as in `tokens_from_points`.
        """
        prompts = self._point_prompts(points_xy, point_labels, size_hw)
        return self._masks(image_embedding, prompts, size_hw)

    def propose(
        self, image_embedding: Tensor, size_hw: tuple[int, int], grid: GridProposer
    ) -> GridProposals:
        """Find regions that nobody has marked; see `GridProposer.propose`."""
        return grid.propose(self.sam, image_embedding, size_hw)

    def _tokens(self, image_embedding: Tensor, prompts: SamPrompts) -> Tensor:
        return decode_tokens(
            self.sam, image_embedding, prompts, site=self.token_site, chunk_size=_TOKEN_CHUNK
        )

    def _masks(
        self, image_embedding: Tensor, prompts: SamPrompts, size_hw: tuple[int, int]
    ) -> NDArray[np.bool_]:
        masks_RHW = decode_masks(
            self.sam,
            image_embedding,
            prompts,
            resized_hw=resized_size_hw(size_hw, self.image_size),
            size_hw=size_hw,
            chunk_size=_MASK_CHUNK,
        )
        return masks_RHW.numpy()

    def _boxes_sam(self, boxes_xyxy: FloatArray, size_hw: tuple[int, int]) -> Tensor:
        boxes = as_boxes(boxes_xyxy)
        inside = clip_boxes_xyxy(boxes, size_hw)
        if (np.abs(inside - boxes) > _TOLERANCE_PX).any():
            row = int((np.abs(inside - boxes) > _TOLERANCE_PX).any(axis=1).argmax())
            raise ShapeError(
                f"box {row} {boxes[row].tolist()} reaches outside the image of {size_hw[1]} x"
                f" {size_hw[0]} pixels (width x height); wanted (x1, y1, x2, y2) in pixels of the"
                " original image. Cut boxes with regionspot.core.geometry.clip_boxes_xyxy."
            )
        boxes_sam = to_sam_frame(inside, size_hw, self.image_size)
        return torch.from_numpy(boxes_sam).to(self.device)

    def _point_prompts(
        self, points_xy: FloatArray, point_labels: NDArray[np.int64], size_hw: tuple[int, int]
    ) -> SamPrompts:
        points = np.asarray(points_xy, np.float32)
        labels = np.asarray(point_labels)
        if points.ndim != 3 or points.shape[2] != 2 or labels.shape != points.shape[:2]:
            raise ShapeError(
                f"points have shape {points.shape} and their labels {labels.shape}; wanted"
                " (R, K, 2) and (R, K)."
            )
        height, width = size_hw
        outside = ~((points >= 0) & (points <= (width, height))).all(axis=-1) & (labels != -1)
        if outside.any():
            raise ShapeError(
                f"point {points[outside][0].tolist()} lies outside the image of {width} x {height}"
                " pixels (width x height); wanted (x, y) in pixels of the original image."
            )
        points_sam = points_to_sam_frame(points, size_hw, self.image_size)
        return SamPrompts(
            points_xy_sam=torch.from_numpy(points_sam).to(self.device),
            point_labels=torch.from_numpy(labels.astype(np.int64)).to(self.device),
        )

    def _mask_prompts(self, masks: NDArray[np.bool_], prompt: MaskPrompt) -> SamPrompts:
        boxes = mask_extents(masks)
        size_hw = (masks.shape[1], masks.shape[2])
        shapes = None
        if prompt != "box":
            grid_hw = self.sam.prompt_encoder.mask_input_size
            shapes = mask_logits(
                masks, frame_px=self.image_size, grid_hw=grid_hw, device=self.device
            )
        return SamPrompts(
            boxes_xyxy_sam=None if prompt == "mask" else self._boxes_sam(boxes, size_hw),
            mask_logits=shapes,
        )
