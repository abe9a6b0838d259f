"""The localizer: a frozen SAM, from an image to its embedding and from prompts to tokens and masks.

What differs between SAM and SAM 2 is below the line in `Localizer`, and implemented in ``sam.py``
and ``sam2.py``. Prompts are in the model's frame here; ``regions.py`` takes them in pixels of the
original image.

Shape letters: B images, R regions, M masks a region, H W a grid or an image.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from regionspot.backbones.decoded_masks import MaskFrame
from regionspot.backbones.execution import FLOAT32, Execution
from regionspot.backbones.pixels import ImageArray, check_image, resize_bilinear
from regionspot.backbones.presets import TokenSite
from regionspot.backbones.to_frame import Frame, SamPrompts


class Localizer(ABC):
    """A frozen SAM, of either generation.

    An image is embedded once; tokens and masks of any number of prompts are decoded from the
    embedding (see `region_tokens` and `region_masks`). The content of an embedding is specific to
    the localizer: pass it back one image at a time (``embedding[i : i + 1]`` of a batch).
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

    def frame(self, size_hw: tuple[int, int]) -> Frame:
        """Return where an image of a size, (height, width) in pixels, lies in the model's input."""
        return Frame(
            size_hw=size_hw,
            resized_hw=self.frame_size_hw(size_hw),
            side_px=self.image_size,
            device=self.device,
        )

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
