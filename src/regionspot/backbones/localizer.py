"""The localizer: a frozen SAM, from an image to its embedding and from prompts to tokens and masks.

``sam.py`` and ``sam2.py`` implement it. Prompts are in the model's frame here; ``regions.py`` takes
them in pixels of the original image.

Shape letters: B images, R regions, M masks a region, H W a grid or an image.
"""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from regionspot.backbones.decoded_masks import MaskFrame
from regionspot.backbones.execution import Execution
from regionspot.backbones.frozen_model import FrozenModel
from regionspot.backbones.presets import TokenSite
from regionspot.backbones.to_frame import Frame, SamPrompts

_REGIONS_AT_ONCE = 64
"""Regions whose tokens are decoded at once, at a few times 4 MiB each with a released SAM."""


class Localizer(FrozenModel):
    """A frozen SAM, of either generation.

    An image is embedded once; tokens and masks of any number of prompts are decoded from the
    embedding (see `region_tokens` and `region_masks`). The content of an embedding is specific to
    the localizer: pass it back one image at a time (``embedding[i : i + 1]`` of a batch).
    """

    image_size: int
    """Side of the model's square frame in pixels."""
    mask_threshold: float
    """The logit above which a pixel belongs to a mask."""
    mask_grid_hw: tuple[int, int]
    """Rows and columns of the grid on which the model takes masks as prompts."""

    def __init__(
        self,
        module: nn.Module,
        *,
        width: int,
        token_site: TokenSite,
        model_name: str,
        execution: Execution,
    ) -> None:
        """Store what every localizer has; implementations set the attributes above.

        Args:
            module: The model, frozen, in eval mode.
            width: Width S of its prompts and image embedding.
            token_site: Where position tokens are read.
            model_name: Name of the SAM, for fingerprints.
            execution: How the forward passes are run.
        """
        super().__init__(module, execution=execution)
        self.token_site = token_site
        self.model_name = model_name
        widths = {"prompt_encoder": 2 * width, "transformer": width, "mlp": width // 8}
        self.token_dim = widths[token_site]

    @torch.no_grad()
    def embed(self, pixels_BCHW: Tensor) -> Tensor:
        """Embed preprocessed images, (B, 3, S, S) with S = `image_size`, to (B, C, H, W) float32.

        B is 1 or more.
        """
        with self.execution.autocast(self.device):
            return self._embed(pixels_BCHW.to(self.device)).float()

    @torch.no_grad()
    def decode_tokens(self, image_embedding: Tensor, prompts: SamPrompts) -> tuple[Tensor, Tensor]:
        """Return the position tokens of prompts in the model's frame, and their predicted IoUs.

        Returns:
            Tokens, (R, `token_dim`) float32; and the IoU that the model predicts for the mask of
            mask token 0, (R,) float32: about 0..1, not clamped.

        Raises:
            ShapeError: The embedding is not one image's, or the token site is "prompt_encoder" and
                the prompts are not two embeddings wide.
        """
        with self.execution.autocast(self.device):
            decoded = [
                self._decode_tokens(image_embedding, chunk)
                for chunk in prompts.split(_REGIONS_AT_ONCE)
            ]
        tokens = [torch.zeros(0, self.token_dim, device=self.device)]
        ious = [torch.zeros(0, device=self.device)]
        for of_chunk, ious_of_chunk in decoded:
            tokens.append(of_chunk.float())
            ious.append(ious_of_chunk.float())
        return torch.cat(tokens), torch.cat(ious)

    @torch.no_grad()
    def decode_masks(
        self, image_embedding: Tensor, prompts: SamPrompts, *, several: bool
    ) -> tuple[Tensor, Tensor]:
        """Return mask logits on the model's grid, (R, M, h, w), and their predicted IoUs, (R, M).

        Args:
            image_embedding: One image's embedding, as `embed` gives it.
            prompts: The regions, in the model's frame, which are decoded all at once.
            several: Whether to return several answers (a part, a thing, a group) or a single one.

        Raises:
            ShapeError: The embedding is not one image's.
        """
        with self.execution.autocast(self.device):
            logits_RMHW, ious_RM = self._decode_masks(image_embedding, prompts, several=several)
        return logits_RMHW.float(), ious_RM.float()

    def frame(self, size_hw: tuple[int, int]) -> Frame:
        """Return where an image of a size, (height, width) in pixels, lies in the model's input."""
        return Frame(
            size_hw=size_hw,
            resized_hw=self.frame_size_hw(size_hw),
            side_px=self.image_size,
            device=self.device,
        )

    # --- What an implementation provides --------------------------------------------------------

    @abstractmethod
    def mask_frame(self, size_hw: tuple[int, int]) -> MaskFrame:
        """Return how mask logits are enlarged from the model's grid to an original image's size."""

    @abstractmethod
    def _embed(self, pixels_BCHW: Tensor) -> Tensor: ...

    @abstractmethod
    def _decode_tokens(
        self, image_embedding: Tensor, prompts: SamPrompts
    ) -> tuple[Tensor, Tensor]: ...

    @abstractmethod
    def _decode_masks(
        self, image_embedding: Tensor, prompts: SamPrompts, *, several: bool
    ) -> tuple[Tensor, Tensor]: ...
