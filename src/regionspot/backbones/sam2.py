"""SAM 2 as a localizer, composed from ``transformers``, and its architectures and weights.

SAM 2 and SAM 2.1 have the same architectures; only their weights differ.

Shape letters: B images, R regions, M masks a region, S SAM 2's width, H W a grid or an image.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor
from typing_extensions import override

from regionspot.backbones.decoded_masks import MaskFrame
from regionspot.backbones.execution import FLOAT32, Execution, keep_norms_in_float32
from regionspot.backbones.localizer import Localizer
from regionspot.backbones.presets import SAM2_DEFAULT_WEIGHTS, TokenSite
from regionspot.backbones.sam2_decoder import decode_masks, decode_tokens, fold_levels
from regionspot.backbones.to_frame import SamPrompts
from regionspot.backbones.weights import RANDOM, build_frozen, fetch_from_hub, is_path
from regionspot.core.errors import ConfigError, WeightsError
from regionspot.core.text import needs_extra

if TYPE_CHECKING:
    from transformers import Sam2Model


_logger = logging.getLogger(__name__)

_OPTION = "models.sam_weights"
_FILE = "model.safetensors"
_MEAN_RGB = (0.485, 0.456, 0.406)
_STD_RGB = (0.229, 0.224, 0.225)


class Sam2Localizer(Localizer):
    """The frozen SAM 2: pixels, tokens and masks are those of ``Sam2Processor`` and ``Sam2Model``.

    Pixels are resized by PIL instead of torchvision, for the same bytes on every machine; the two
    differ by at most one level. An embedding, (B, 4 S, H, W), holds the image embedding and the
    two finer maps that masks are drawn with; see `fold_levels`.
    """

    resize_rule: ClassVar[str] = "squash bilinear antialias uint8 (PIL), normalise (ImageNet)"

    def __init__(
        self,
        sam2: "Sam2Model",
        *,
        token_site: TokenSite,
        model_name: str,
        execution: Execution = FLOAT32,
    ) -> None:
        """Wrap a frozen SAM 2 in eval mode, as from `load_sam2`; see `Localizer`."""
        super().__init__(
            sam2,
            width=sam2.mask_decoder.hidden_size,
            token_site=token_site,
            model_name=model_name,
            execution=execution,
        )
        self.sam2 = sam2
        self.image_size = int(sam2.prompt_encoder.input_image_size)
        self.mask_threshold = 0.0  # the default of Sam2Processor.post_process_masks
        self.mask_grid_hw = sam2.prompt_encoder.mask_input_size
        self._encode = execution.compiled(self._encode_images)
        if execution.precision != "float32":
            keep_norms_in_float32(sam2)

    @override
    def reference(self) -> "Sam2Localizer":
        return Sam2Localizer(self.sam2, token_site=self.token_site, model_name=self.model_name)

    @override
    def frame_size_hw(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        return self.image_size, self.image_size

    @override
    def normalise(self, resized: Tensor) -> Tensor:
        return self._standardised(resized, _MEAN_RGB, _STD_RGB)

    @override
    def mask_frame(self, size_hw: tuple[int, int]) -> MaskFrame:
        return MaskFrame(size_hw=size_hw)

    @override
    def _embed(self, pixels_BCHW: Tensor) -> Tensor:
        return self.execution.encode_in_batches(self._encode, pixels_BCHW)

    @override
    def _decode_tokens(self, image_embedding: Tensor, prompts: SamPrompts) -> tuple[Tensor, Tensor]:
        return decode_tokens(self.sam2, image_embedding, prompts, site=self.token_site)

    @override
    def _decode_masks(
        self, image_embedding: Tensor, prompts: SamPrompts, *, several: bool
    ) -> tuple[Tensor, Tensor]:
        return decode_masks(self.sam2, image_embedding, prompts, several=several)

    def _encode_images(self, pixels_BCHW: Tensor) -> Tensor:
        return fold_levels(self.sam2.get_image_embeddings(pixels_BCHW))


_VIDEO_KEYS = (
    "mask_downsample.",
    "memory_attention.",
    "memory_encoder.",
    "memory_temporal_positional_encoding",
    "no_memory_positional_encoding",
    "no_object_pointer",
    "object_pointer_proj.",
    "occlusion_spatial_embedding_parameter",
    "temporal_positional_encoding_projection_layer.",
)
"""Prefixes of keys in released files that are for tracking in videos; images do not need them."""

_POSITION = "shared_image_embedding.positional_embedding"
_POSITION_AGAIN = "prompt_encoder.shared_embedding.positional_embedding"
"""Two names of one tensor; some versions of transformers save only the first."""


@dataclass(frozen=True, slots=True)
class Hiera:
    """Where the image encoders of the four sizes differ.

    They have four stages, each with twice the width and attention heads of the one before.
    """

    width: int
    """Width of the first stage."""
    num_heads: int
    """Attention heads of the first stage."""
    num_blocks: tuple[int, int, int, int]
    """Blocks of each stage."""
    windows: tuple[int, int, int, int]
    """Sides of the attention windows of each stage in tokens."""
    global_attention_blocks: tuple[int, int, int]
    """Blocks, counted from 0 over all stages, that attend over the whole image instead."""
    position_grid: int
    """Rows and columns of the learned position table, which is enlarged to the image's grid."""


SIZES: dict[str, Hiera] = {
    "tiny": Hiera(96, 1, (1, 2, 7, 2), (8, 4, 14, 7), (5, 7, 9), 7),
    "small": Hiera(96, 1, (1, 2, 11, 2), (8, 4, 14, 7), (7, 10, 13), 7),
    "base_plus": Hiera(112, 2, (2, 3, 16, 3), (8, 4, 14, 7), (12, 16, 20), 14),
    "large": Hiera(144, 2, (2, 6, 36, 4), (8, 4, 16, 8), (23, 33, 43), 7),
}


def load_sam2(model: str, weights: str) -> "Sam2Model":
    """Build a SAM 2 and load its weights.

    Args:
        model: "sam2.1_hiera_tiny", "_small", "_base_plus" or "_large", or SAM 2's "sam2_hiera_...".
        weights: The released repository ("facebook/sam2.1-hiera-tiny", downloaded by
            ``huggingface_hub``), path of a .safetensors or .pt file with the names of transformers'
            ``Sam2Model`` or ``Sam2VideoModel``, path of a folder that ``save_pretrained`` wrote, or
            "random" (the same every time, with a warning).

    Returns:
        The model on the CPU in float32, frozen, in eval mode.

    Raises:
        ConfigError: There is no such model.
        WeightsError: The weights are unknown or unavailable, or do not fit the model.
        MissingFileError: The weights are a path that does not exist.
        MissingExtraError: ``transformers`` is not installed.
    """
    if model not in SAM2_DEFAULT_WEIGHTS:
        raise ConfigError(
            f"there is no SAM 2 {model!r}; give one of {', '.join(SAM2_DEFAULT_WEIGHTS)}"
            " (option models.sam)."
        )
    path = None if weights == RANDOM else _weights_path(model, weights)
    build = partial(build_sam2, model)
    return build_frozen(build, path, what=f"SAM 2 {model}", option=_OPTION, adapt=_image_part)


def build_sam2(model: str) -> "Sam2Model":
    """Build a released architecture, named as in `load_sam2`, with fresh weights."""
    with needs_extra("transformers"):
        from transformers import Sam2Config, Sam2HieraDetConfig, Sam2Model, Sam2VisionConfig
    size = SIZES[model.partition("_hiera_")[2]]
    widths = [size.width << stage for stage in range(4)]
    hiera = Sam2HieraDetConfig(
        hidden_size=size.width,
        num_attention_heads=size.num_heads,
        embed_dim_per_stage=widths,
        blocks_per_stage=list(size.num_blocks),
        num_attention_heads_per_stage=[size.num_heads << stage for stage in range(4)],
        window_size_per_stage=list(size.windows),
        global_attention_blocks=list(size.global_attention_blocks),
        window_positional_embedding_background_size=[size.position_grid] * 2,
    )
    vision = Sam2VisionConfig(backbone_config=hiera, backbone_channel_list=widths[::-1])
    return Sam2Model(Sam2Config(vision_config=vision))


def _weights_path(model: str, weights: str) -> Path:
    own = SAM2_DEFAULT_WEIGHTS[model]
    if weights == own:
        return fetch_from_hub(own, _FILE, option=_OPTION)
    if weights in SAM2_DEFAULT_WEIGHTS.values():
        raise WeightsError(
            f"{weights} was asked for, but SAM 2 {model} goes with {own}: give models.sam and"
            f" {_OPTION} that belong together, or leave out {_OPTION}."
        )
    path = Path(weights)
    if path.is_dir():
        return path / _FILE
    if is_path(weights):
        return path
    raise WeightsError(
        f"there are no weights {weights!r} for SAM 2 {model}; give {own}, a path to a .safetensors"
        f" or .pt file or to a folder with {_FILE}, or random (option {_OPTION})."
    )


def _image_part(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Drop what only videos need, with a log line."""
    if any(key.startswith("image_encoder.trunk.") for key in state):
        raise WeightsError(
            f"{path} has the names of SAM 2's own repository; wanted those of transformers. Give"
            f" the {_FILE} of the repository of the same name, for instance"
            " https://huggingface.co/facebook/sam2.1-hiera-tiny."
        )
    kept = {key: value for key, value in state.items() if not key.startswith(_VIDEO_KEYS)}
    if len(kept) < len(state):
        dropped = sorted({key.partition(".")[0] for key in state.keys() - kept.keys()})
        _logger.info("%s: ignored %s, which are for videos", path, ", ".join(dropped))
    if _POSITION in kept:
        kept.setdefault(_POSITION_AGAIN, kept[_POSITION])
    return kept
