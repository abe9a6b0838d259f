"""SAM as the localizer, composed from ``segment_anything``.

Shape letters: B images, R regions, M masks a region, S SAM's width, H W a grid or an image.
"""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn
from typing_extensions import override

from regionspot.backbones.decoded_masks import MaskFrame, bilinear
from regionspot.backbones.device import to_device
from regionspot.backbones.execution import FLOAT32, Execution, keep_norms_in_float32
from regionspot.backbones.localizer import Localizer
from regionspot.backbones.presets import TokenSite
from regionspot.backbones.prompts import SamPrompts, decode_masks, decode_tokens, token_dim
from regionspot.backbones.sam_encoder import encode_image
from regionspot.core.geometry import resized_size_hw

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

SAM_RESIZE = "longest-side bilinear antialias uint8 (PIL), normalise, pad with zeros"
"""How images become SAM's input."""

_TOKEN_CHUNK = 64
_CPU_PIXELS = 1024**2
"""What a CPU embeds at once, one image of the released models. Four of them leave its caches: in a
single trial on 2 cores a ViT-B took 33 s an image instead of 16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaddedMaskFrame(MaskFrame):
    """What ``Sam.postprocess_masks`` does, bit for bit, without holding the model."""

    resized_hw: tuple[int, int]
    """Height and width of the image in SAM's frame; the rest of the frame is padding."""
    side_px: int
    """Side of SAM's frame in pixels."""

    @override
    def inside(self, logits_NHW: Tensor) -> Tensor:
        height, width = self.resized_hw
        return bilinear(logits_NHW, (self.side_px, self.side_px))[:, :height, :width]


class SamLocalizer(Localizer):
    """The frozen SAM: pixels, tokens and masks are those of ``SamPredictor``."""

    resize_rule: ClassVar[str] = SAM_RESIZE

    def __init__(
        self,
        sam: "Sam",
        *,
        token_site: TokenSite,
        model_name: str,
        execution: Execution = FLOAT32,
    ) -> None:
        """Wrap a SAM.

        Args:
            sam: A frozen SAM in eval mode, for instance from `load_sam`.
            token_site: Where position tokens are read.
            model_name: Name of the SAM, for fingerprints.
            execution: How its forward passes are run.
        """
        from segment_anything.modeling.common import LayerNorm2d

        super().__init__(token_site=token_site, model_name=model_name, execution=execution)
        self.sam = sam
        self._encode = execution.compiled(partial(encode_image, sam.image_encoder))
        if execution.precision != "float32":
            keep_norms_in_float32(sam, LayerNorm2d)

    @property
    @override
    def mask_threshold(self) -> float:
        return float(self.sam.mask_threshold)

    @property
    @override
    def module(self) -> nn.Module:
        sam: nn.Module = self.sam
        return sam

    @property
    @override
    def image_size(self) -> int:
        return int(self.sam.image_encoder.img_size)

    @property
    @override
    def mask_grid_hw(self) -> tuple[int, int]:
        rows, columns = self.sam.prompt_encoder.mask_input_size
        return rows, columns

    @property
    @override
    def token_dim(self) -> int:
        return token_dim(self.sam, self.token_site)

    @override
    def frame_size_hw(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        return resized_size_hw(size_hw, self.image_size)

    @override
    def normalise(self, resized: Tensor) -> Tensor:
        pixels: Tensor = self.sam.preprocess(to_device(resized, self.device))
        return pixels

    @override
    def reference(self) -> "SamLocalizer":
        return SamLocalizer(self.sam, token_site=self.token_site, model_name=self.model_name)

    @override
    def _embed(self, pixels_BCHW: Tensor) -> Tensor:
        at_once = None
        if self.device.type == "cpu":
            at_once = max(1, _CPU_PIXELS // self.image_size**2)
        return self.execution.encode_in_batches(self._encode, pixels_BCHW, at_once=at_once)

    @override
    def _decode_tokens(self, image_embedding: Tensor, prompts: SamPrompts) -> Tensor:
        return decode_tokens(
            self.sam, image_embedding, prompts, site=self.token_site, chunk_size=_TOKEN_CHUNK
        )

    @override
    def _decode_masks(
        self, image_embedding: Tensor, prompts: SamPrompts, *, several: bool
    ) -> tuple[Tensor, Tensor]:
        return decode_masks(self.sam, image_embedding, prompts, several=several)

    @override
    def mask_frame(self, size_hw: tuple[int, int]) -> MaskFrame:
        return PaddedMaskFrame(
            size_hw=size_hw, resized_hw=self.frame_size_hw(size_hw), side_px=self.image_size
        )
