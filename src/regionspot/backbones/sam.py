"""SAM as a localizer, composed from ``segment_anything``, and its architectures and weights.

Shape letters: B images, R regions, M masks a region, S SAM's width, H W a grid or an image.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn
from typing_extensions import override

from regionspot.backbones.decoded_masks import MaskFrame, bilinear
from regionspot.backbones.execution import FLOAT32, Execution, keep_norms_in_float32, to_device
from regionspot.backbones.localizer import Localizer
from regionspot.backbones.presets import SAM_DEFAULT_WEIGHTS, TokenSite
from regionspot.backbones.sam_decoder import decode_masks, decode_tokens
from regionspot.backbones.sam_encoder import encode_image
from regionspot.backbones.to_frame import SamPrompts
from regionspot.backbones.weights import (
    RANDOM,
    SAM_RELEASES,
    SHIPPED,
    build_frozen,
    fetch,
    is_path,
    shipped_config,
    shipped_weights_path,
)
from regionspot.core.errors import ConfigError, WeightsError
from regionspot.core.geometry import resized_size_hw
from regionspot.core.text import needs_extra

if TYPE_CHECKING:
    from segment_anything.modeling import Sam


_OPTION = "models.sam_weights"
_CPU_PIXELS = 1024**2
"""Pixels that a CPU embeds at once: one image of the released models. Four exceed its caches: in
a single trial on 2 cores a ViT-B took 33 s an image instead of 16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaddedMaskFrame(MaskFrame):
    """Enlarges masks as ``Sam.postprocess_masks`` does, bit for bit, without holding the model."""

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

    resize_rule: ClassVar[str] = (
        "longest-side bilinear antialias uint8 (PIL), normalise, pad with zeros"
    )

    def __init__(
        self,
        sam: "Sam",
        *,
        token_site: TokenSite,
        model_name: str,
        execution: Execution = FLOAT32,
    ) -> None:
        """Wrap a frozen SAM in eval mode, as from `load_sam`; see `Localizer`."""
        from segment_anything.modeling.common import LayerNorm2d

        super().__init__(
            sam,
            width=sam.mask_decoder.transformer_dim,
            token_site=token_site,
            model_name=model_name,
            execution=execution,
        )
        self.sam = sam
        self.image_size = int(sam.image_encoder.img_size)
        self.mask_threshold = float(sam.mask_threshold)
        self.mask_grid_hw = sam.prompt_encoder.mask_input_size
        self._encode = execution.compiled(partial(encode_image, sam.image_encoder))
        if execution.precision != "float32":
            keep_norms_in_float32(sam, LayerNorm2d)

    @override
    def reference(self) -> "SamLocalizer":
        return SamLocalizer(self.sam, token_site=self.token_site, model_name=self.model_name)

    @override
    def frame_size_hw(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        return resized_size_hw(size_hw, self.image_size)

    @override
    def normalise(self, resized: Tensor) -> Tensor:
        pixels: Tensor = self.sam.preprocess(to_device(resized, self.device))
        return pixels

    @override
    def mask_frame(self, size_hw: tuple[int, int]) -> MaskFrame:
        return PaddedMaskFrame(
            size_hw=size_hw, resized_hw=self.frame_size_hw(size_hw), side_px=self.image_size
        )

    @override
    def _embed(self, pixels_BCHW: Tensor) -> Tensor:
        at_once = None
        if self.device.type == "cpu":
            at_once = max(1, _CPU_PIXELS // self.image_size**2)
        return self.execution.encode_in_batches(self._encode, pixels_BCHW, at_once=at_once)

    @override
    def _decode_tokens(self, image_embedding: Tensor, prompts: SamPrompts) -> tuple[Tensor, Tensor]:
        return decode_tokens(self.sam, image_embedding, prompts, site=self.token_site)

    @override
    def _decode_masks(
        self, image_embedding: Tensor, prompts: SamPrompts, *, several: bool
    ) -> tuple[Tensor, Tensor]:
        return decode_masks(self.sam, image_embedding, prompts, several=several)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamShape:
    """The numbers that a SAM of any size is built from; the keys of ``tiny/sam.json``."""

    image_size: int
    """Side of the square input in pixels."""
    patch_size: int
    """Side of a patch in pixels."""
    encoder_dim: int
    """Width of the image encoder."""
    encoder_depth: int
    """Number of the image encoder's blocks."""
    encoder_heads: int
    """Attention heads in each of them."""
    encoder_mlp_ratio: float
    """Hidden width of their MLPs, as a multiple of ``encoder_dim``."""
    global_attention_blocks: tuple[int, ...]
    """Blocks, counted from 0, that attend over the whole image instead of windows."""
    window_size: int
    """Side of an attention window in patches."""
    prompt_dim: int
    """Width S of image embedding, prompts and position tokens."""
    mask_in_chans: int
    """Hidden channels that embed a mask prompt."""
    decoder_depth: int
    """Number of the mask decoder's two-way blocks."""
    decoder_heads: int
    """Attention heads in each of them."""
    decoder_mlp_dim: int
    """Hidden width of their MLPs."""
    num_multimask_outputs: int
    """Masks offered for an ambiguous prompt, besides the single-mask answer."""
    iou_head_depth: int
    """Layers of the MLP that rates masks."""
    iou_head_hidden_dim: int
    """Its hidden width."""
    pixel_mean: tuple[float, float, float]
    """Mean of red, green and blue in 0..255."""
    pixel_std: tuple[float, float, float]
    """Their standard deviation."""


def load_sam(model: str, weights: str) -> "Sam":
    """Build a SAM and load its weights.

    Args:
        model: "vit_b", "vit_l" or "vit_h" as ``segment_anything`` builds them, or "tiny".
        weights: Name of a released file ("sam_vit_b_01ec64", "sam_vit_l_0b3195",
            "sam_vit_h_4b8939": downloaded and checked), path of a file, "random" (the same every
            time, with a warning), or "shipped" (tiny only).

    Returns:
        The model on the CPU in float32, frozen, in eval mode.

    Raises:
        ConfigError: There is no such model.
        WeightsError: The weights are unknown or unavailable, or do not fit the model.
        MissingFileError: The weights are a path that does not exist.
        MissingExtraError: ``segment_anything`` is not installed.
    """
    if model not in SAM_DEFAULT_WEIGHTS:
        raise ConfigError(
            f"there is no SAM {model!r}; give one of {', '.join(SAM_DEFAULT_WEIGHTS)}"
            " (option models.sam)."
        )
    path = None if weights == RANDOM else _weights_path(model, weights)
    return build_frozen(partial(_build, model), path, what=f"SAM {model}", option=_OPTION)


def build_sam(shape: SamShape) -> "Sam":
    """Build a SAM of any size from ``segment_anything``'s own classes, with fresh weights.

    The model is on the CPU, in training mode.
    """
    with needs_extra("extract"):
        from segment_anything.modeling import (
            ImageEncoderViT,
            MaskDecoder,
            PromptEncoder,
            Sam,
            TwoWayTransformer,
        )
    grid = shape.image_size // shape.patch_size
    return Sam(
        image_encoder=ImageEncoderViT(
            img_size=shape.image_size,
            patch_size=shape.patch_size,
            embed_dim=shape.encoder_dim,
            depth=shape.encoder_depth,
            num_heads=shape.encoder_heads,
            mlp_ratio=shape.encoder_mlp_ratio,
            out_chans=shape.prompt_dim,
            qkv_bias=True,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=shape.window_size,
            global_attn_indexes=shape.global_attention_blocks,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=shape.prompt_dim,
            image_embedding_size=(grid, grid),
            input_image_size=(shape.image_size, shape.image_size),
            mask_in_chans=shape.mask_in_chans,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=shape.num_multimask_outputs,
            transformer=TwoWayTransformer(
                depth=shape.decoder_depth,
                embedding_dim=shape.prompt_dim,
                mlp_dim=shape.decoder_mlp_dim,
                num_heads=shape.decoder_heads,
            ),
            transformer_dim=shape.prompt_dim,
            iou_head_depth=shape.iou_head_depth,
            iou_head_hidden_dim=shape.iou_head_hidden_dim,
        ),
        pixel_mean=list(shape.pixel_mean),
        pixel_std=list(shape.pixel_std),
    )


def _build(model: str) -> "Sam":
    if model == "tiny":
        return build_sam(SamShape(**shipped_config("sam")))
    with needs_extra("extract"):
        from segment_anything import sam_model_registry
    return sam_model_registry[model](checkpoint=None)  # its own loading would run pickled code


def _weights_path(model: str, weights: str) -> Path:
    if is_path(weights):
        return Path(weights)
    if weights == SHIPPED and model == "tiny":
        return shipped_weights_path("sam")
    if weights in SAM_RELEASES:
        own = SAM_DEFAULT_WEIGHTS[model]
        if weights != own:
            raise WeightsError(
                f"{weights} was asked for, but SAM {model} goes with {own}: give models.sam and"
                f" {_OPTION} that belong together, or leave out {_OPTION}."
            )
        return fetch(SAM_RELEASES[weights], option=_OPTION)
    raise WeightsError(
        f"there are no weights {weights!r} for SAM {model}; give {SAM_DEFAULT_WEIGHTS[model]}, a"
        f" path to a .pth or .safetensors file, or random (option {_OPTION})."
    )
