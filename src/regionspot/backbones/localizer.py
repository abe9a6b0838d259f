"""The localizer: a frozen SAM, from an image's pixels to position tokens and masks.

Everything here is in pixels of the original image. What differs between SAM and SAM 2 is below the
line in `Localizer`, and implemented in ``sam.py`` and ``sam2.py``.

Shape letters: R regions, K points a region, M masks a region, H W a grid or an image.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from regionspot.backbones.decode_images import ImageArray, check_image, resize_bilinear
from regionspot.backbones.decoded_masks import DecodedMasks, MaskFrame
from regionspot.backbones.execution import FLOAT32, Execution
from regionspot.backbones.presets import TokenSite
from regionspot.backbones.prompts import SamPrompts
from regionspot.backbones.sam_grid import GridProposals, GridProposer
from regionspot.backbones.to_frame import (
    Frame,
    MaskPrompt,
    box_prompts,
    mask_prompts,
    mask_size_hw,
    point_prompts,
)
from regionspot.core.geometry import FloatArray

_MASK_CHUNK = 16
"""Regions whose masks are decoded at once: a released SAM's decoder takes about 30 MiB for each."""


class Localizer(ABC):
    """A frozen SAM with its input and output in pixels of the original image.

    An image is embedded once; tokens and masks of any number of prompts follow from the embedding.
    What an embedding holds is the localizer's own business: callers hand it back, one image at a
    time (``embedding[i : i + 1]`` of a batch).
    """

    resize_rule: ClassVar[str]
    """How images become the model's input; part of a cache's fingerprint."""

    def __init__(
        self, *, token_site: TokenSite, model_name: str, execution: Execution = FLOAT32
    ) -> None:
        """Keep what every localizer has.

        Args:
            token_site: Where position tokens are read.
            model_name: Name of the SAM, for fingerprints.
            execution: How the forward passes are run.
        """
        self.token_site = token_site
        self.model_name = model_name
        self.execution = execution

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.module.parameters()).device

    def to(self, device: torch.device) -> Self:
        """Move the model to a device, and return this localizer."""
        self.module.to(device)
        return self

    def resize(self, image: ImageArray) -> Tensor:
        """Resize an image as the model wants it, bilinear with antialias, in whole levels.

        Args:
            image: (H, W, 3) uint8 RGB.

        Returns:
            (3, h, w) uint8 on the CPU; h and w are `frame_size_hw`.

        Raises:
            ShapeError: The image is not (H, W, 3) uint8, or too elongated to keep a pixel.
        """
        resized = resize_bilinear(image, self.frame_size_hw(check_image(image)))
        return torch.from_numpy(resized).permute(2, 0, 1)

    def preprocess(self, image: ImageArray) -> Tensor:
        """Turn an image into the model's input.

        Args:
            image: (H, W, 3) uint8 RGB.

        Returns:
            (3, `image_size`, `image_size`) float32, on the model's device.

        Raises:
            ShapeError: See `resize`.
        """
        return self.normalise(self.resize(image))

    @torch.no_grad()
    def embed(self, pixels_BCHW: Tensor) -> Tensor:
        """Embed preprocessed images, (B, 3, S, S) with S = `image_size`, to (B, C, H, W) float32.

        B is 1 or more.
        """
        with self.execution.autocast(self.device):
            return self._embed(pixels_BCHW.to(self.device)).float()

    @torch.no_grad()
    def decode_tokens(self, image_embedding: Tensor, prompts: SamPrompts) -> Tensor:
        """Return the position tokens of prompts in the model's frame, (R, `token_dim`) float32.

        Raises:
            ShapeError: The embedding is not one image's, or the token site is "prompt_encoder" and
                the prompts are not two embeddings wide.
        """
        with self.execution.autocast(self.device):
            return self._decode_tokens(image_embedding, prompts).float()

    @torch.no_grad()
    def decode_masks(
        self, image_embedding: Tensor, prompts: SamPrompts, *, several: bool
    ) -> tuple[Tensor, Tensor]:
        """Return mask logits on the model's grid, (R, M, h, w), and its rating of each, (R, M).

        Args:
            image_embedding: One image's embedding, as `embed` gives it.
            prompts: The regions, in the model's frame, which are decoded all at once.
            several: Whether to return several answers (a part, a thing, a group) or a single one.

        Raises:
            ShapeError: The embedding is not one image's.
        """
        with self.execution.autocast(self.device):
            logits_RMHW, ratings_RM = self._decode_masks(image_embedding, prompts, several=several)
        return logits_RMHW.float(), ratings_RM.float()

    @torch.no_grad()
    def tokens(
        self, image_embedding: Tensor, boxes_xyxy: FloatArray, size_hw: tuple[int, int]
    ) -> Tensor:
        """Return the position tokens of boxes.

        Args:
            image_embedding: One image's embedding, as `embed` gives it.
            boxes_xyxy: Boxes, (R, 4), pixels of the original image. They may overshoot the image by
                a pixel, as rounding makes them, and are cut there.
            size_hw: Height and width of the original image in pixels.

        Returns:
            (R, `token_dim`), on the model's device.

        Raises:
            ShapeError: The boxes are not (R, 4), end before they start, or reach outside the image.
        """
        return self.decode_tokens(image_embedding, box_prompts(boxes_xyxy, self._frame(size_hw)))

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
            image_embedding: One image's embedding, as `embed` gives it.
            points_xy: Points, (R, K, 2), pixels of the original image.
            point_labels: What each point says, (R, K): 1 in the region, 0 not in it, -1 padding.
            size_hw: Height and width of the original image in pixels.

        Returns:
            (R, `token_dim`), on the model's device.

        Raises:
            ShapeError: The shapes do not correspond, or a point that is not padding lies outside
                the image; or the token site is "prompt_encoder" and K is not 1.
        """
        prompts = point_prompts(points_xy, point_labels, self._frame(size_hw))
        return self.decode_tokens(image_embedding, prompts)

    @torch.no_grad()
    def tokens_from_masks(
        self, image_embedding: Tensor, masks: NDArray[np.bool_], *, prompt: MaskPrompt = "box"
    ) -> Tensor:
        """Return the position tokens of regions given by masks.

        Args:
            image_embedding: One image's embedding, as `embed` gives it.
            masks: Masks of the original image's size, (R, H, W) bool, none of them empty.
            prompt: "box" prompts with each mask's extent: a token of the kind that heads are
                trained on. "box_and_mask" shows SAM the shape as well, as in its own refinement
                steps; "mask" shows the shape alone. Both need a SAM that was trained with mask
                prompts, which the tiny one was not.

        Returns:
            (R, `token_dim`), on the model's device.

        Raises:
            ShapeError: The masks are not (R, H, W) bool, or one is empty.
        """
        size_hw = mask_size_hw(masks)
        prompts = mask_prompts(masks, prompt, self._frame(size_hw), grid_hw=self.mask_grid_hw)
        return self.decode_tokens(image_embedding, prompts)

    @torch.no_grad()
    def masks(
        self, image_embedding: Tensor, boxes_xyxy: FloatArray, size_hw: tuple[int, int]
    ) -> DecodedMasks:
        """Return the single-mask answers to boxes, each (H, W) bool at the original size.

        Arguments and errors as in `tokens`.
        """
        return self._masks(image_embedding, box_prompts(boxes_xyxy, self._frame(size_hw)), size_hw)

    @torch.no_grad()
    def masks_from_points(
        self,
        image_embedding: Tensor,
        points_xy: FloatArray,
        point_labels: NDArray[np.int64],
        size_hw: tuple[int, int],
    ) -> DecodedMasks:
        """Return the single-mask answers to points, each (H, W) bool at the original size.

        Arguments and errors as in `tokens_from_points`.
        """
        prompts = point_prompts(points_xy, point_labels, self._frame(size_hw))
        return self._masks(image_embedding, prompts, size_hw)

    def propose(
        self, image_embedding: Tensor, size_hw: tuple[int, int], grid: GridProposer
    ) -> GridProposals:
        """Find regions that nobody has marked; see `GridProposer.propose`."""
        return grid.propose(self, image_embedding, size_hw)

    # --- What an implementation provides --------------------------------------------------------

    @property
    @abstractmethod
    def module(self) -> nn.Module:
        """The model itself, whose parameters are its identity."""

    @property
    @abstractmethod
    def image_size(self) -> int:
        """Side of the model's square frame in pixels."""

    @property
    @abstractmethod
    def mask_threshold(self) -> float:
        """The logit above which a pixel belongs to a mask."""

    @property
    @abstractmethod
    def mask_grid_hw(self) -> tuple[int, int]:
        """Rows and columns of the grid on which the model takes masks as prompts."""

    @property
    @abstractmethod
    def token_dim(self) -> int:
        """Width of the position tokens."""

    @abstractmethod
    def frame_size_hw(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """Return the height and width that an image of a size has in the model's frame.

        Its origin is the frame's; what it leaves of the frame is padding.
        """

    @abstractmethod
    def normalise(self, resized: Tensor) -> Tensor:
        """Turn the output of `resize`, (3, h, w), into the model's input, (3, S, S) float32.

        The work is done on the model's device: bytes are cheaper to move there than floats.
        """

    @abstractmethod
    def reference(self) -> Self:
        """Return a localizer of the same model that runs in float32, not compiled."""

    @abstractmethod
    def _embed(self, pixels_BCHW: Tensor) -> Tensor:
        """See `embed`."""

    @abstractmethod
    def _decode_tokens(self, image_embedding: Tensor, prompts: SamPrompts) -> Tensor:
        """See `decode_tokens`."""

    @abstractmethod
    def _decode_masks(
        self, image_embedding: Tensor, prompts: SamPrompts, *, several: bool
    ) -> tuple[Tensor, Tensor]:
        """See `decode_masks`."""

    @abstractmethod
    def mask_frame(self, size_hw: tuple[int, int]) -> MaskFrame:
        """Return how mask logits are brought from the model's grid to an original image's size."""

    # --- Shared by the above -------------------------------------------------------------------

    def _masks(
        self, image_embedding: Tensor, prompts: SamPrompts, size_hw: tuple[int, int]
    ) -> DecodedMasks:
        logits = [torch.zeros(0, *self.mask_grid_hw, device=self.device)]
        for chunk in prompts.split(_MASK_CHUNK):
            logits_R1HW, _ = self.decode_masks(image_embedding, chunk, several=False)
            logits.append(logits_R1HW[:, 0])
        return DecodedMasks(
            logits=torch.cat(logits),
            threshold=self.mask_threshold,
            frame=self.mask_frame(size_hw),
        )

    def _frame(self, size_hw: tuple[int, int]) -> Frame:
        return Frame(
            size_hw=size_hw,
            resized_hw=self.frame_size_hw(size_hw),
            side_px=self.image_size,
            device=self.device,
        )
