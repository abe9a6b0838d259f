"""SAM 2 as the localizer, composed from ``transformers``.

Shape letters: B images, R regions, M masks a region, S SAM 2's width, H W a grid or an image.
"""

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from regionspot.backbones.decoded_masks import MaskFrame
from regionspot.backbones.device import to_device
from regionspot.backbones.execution import FLOAT32, Execution, keep_norms_in_float32
from regionspot.backbones.localizer import Localizer
from regionspot.backbones.presets import TokenSite
from regionspot.backbones.prompts import SamPrompts, site_width
from regionspot.backbones.sam2_decoder import decode_masks, decode_tokens, fold_levels

if TYPE_CHECKING:
    from transformers import Sam2Model

SAM2_RESIZE = "squash bilinear antialias uint8 (PIL), normalise (ImageNet)"
"""How images become SAM 2's input."""

_MEAN_RGB = (0.485, 0.456, 0.406)
_STD_RGB = (0.229, 0.224, 0.225)
_TOKEN_CHUNK = 64


class Sam2Localizer(Localizer):
    """The frozen SAM 2: pixels, tokens and masks are those of ``Sam2Processor`` and ``Sam2Model``.

    Pixels are resized by PIL instead of torchvision, for the same bytes on every machine; the two
    differ by at most one level. An embedding, (B, 4 S, H, W), holds the image embedding and the
    two finer maps that masks are drawn with; see `fold_levels`.
    """

    resize_rule: ClassVar[str] = SAM2_RESIZE

    def __init__(
        self,
        sam2: "Sam2Model",
        *,
        token_site: TokenSite,
        model_name: str,
        execution: Execution = FLOAT32,
    ) -> None:
        """Wrap a SAM 2.

        Args:
            sam2: A frozen SAM 2 in eval mode, for instance from `load_sam2`.
            token_site: Where position tokens are read.
            model_name: Name of the SAM 2, for fingerprints.
            execution: How its forward passes are run.
        """
        super().__init__(token_site=token_site, model_name=model_name, execution=execution)
        self.sam2 = sam2
        self._encode = execution.compiled(self._encode_images)
        if execution.precision != "float32":
            keep_norms_in_float32(sam2)

    @property
    @override
    def module(self) -> nn.Module:
        return self.sam2

    @property
    @override
    def image_size(self) -> int:
        return int(self.sam2.prompt_encoder.input_image_size)

    @property
    @override
    def mask_threshold(self) -> float:
        return 0.0  # the default of Sam2Processor.post_process_masks

    @property
    @override
    def mask_grid_hw(self) -> tuple[int, int]:
        rows, columns = self.sam2.prompt_encoder.mask_input_size
        return rows, columns

    @property
    @override
    def token_dim(self) -> int:
        return site_width(self.sam2.mask_decoder.hidden_size, self.token_site)

    @override
    def frame_size_hw(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        return self.image_size, self.image_size

    @override
    def normalise(self, resized: Tensor) -> Tensor:
        mean, std = (
            to_device(torch.tensor(rgb), self.device)[:, None, None]
            for rgb in (_MEAN_RGB, _STD_RGB)
        )
        return (to_device(resized, self.device).float() / 255 - mean) / std

    @override
    def reference(self) -> "Sam2Localizer":
        return Sam2Localizer(self.sam2, token_site=self.token_site, model_name=self.model_name)

    @override
    def _embed(self, pixels_BCHW: Tensor) -> Tensor:
        return self.execution.encode_in_batches(self._encode, pixels_BCHW)

    @override
    def _decode_tokens(self, image_embedding: Tensor, prompts: SamPrompts) -> Tensor:
        return decode_tokens(
            self.sam2, image_embedding, prompts, site=self.token_site, chunk_size=_TOKEN_CHUNK
        )

    @override
    def _decode_masks(
        self, image_embedding: Tensor, prompts: SamPrompts, *, several: bool
    ) -> tuple[Tensor, Tensor]:
        return decode_masks(self.sam2, image_embedding, prompts, several=several)

    @override
    def mask_frame(self, size_hw: tuple[int, int]) -> MaskFrame:
        return MaskFrame(size_hw=size_hw)

    def _encode_images(self, pixels_BCHW: Tensor) -> Tensor:
        return fold_levels(self.sam2.get_image_embeddings(pixels_BCHW))
