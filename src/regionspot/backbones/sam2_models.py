"""The frozen SAM 2: the released architectures of ``transformers``, with weights from anywhere.

SAM 2 and SAM 2.1 look at images with the same architecture; they differ in their weights.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from regionspot.backbones.downloads import fetch_from_hub
from regionspot.backbones.presets import SAM2_DEFAULT_WEIGHTS
from regionspot.backbones.weights import (
    RANDOM,
    freeze,
    is_path,
    load_strictly,
    random_weights,
    read_state_dict,
)
from regionspot.core.errors import ConfigError, WeightsError
from regionspot.core.extras import needs_extra

if TYPE_CHECKING:
    from transformers import Sam2Model

_logger = logging.getLogger(__name__)
_OPTION = "models.sam_weights"
_FILE = "model.safetensors"

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
"""How the keys begin that released files hold for tracking in videos; images do not need them."""

_POSITION = "shared_image_embedding.positional_embedding"
_POSITION_AGAIN = "prompt_encoder.shared_embedding.positional_embedding"
"""Two names of one tensor, of which some versions of transformers save only the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hiera:
    """In what the image encoders of the four sizes differ, by the four stages of each."""

    widths: tuple[int, int, int, int]
    num_blocks: tuple[int, int, int, int]
    num_heads: tuple[int, int, int, int]
    windows: tuple[int, int, int, int]
    """Sides of the attention windows in tokens."""
    global_attention_blocks: tuple[int, int, int]
    """Blocks, counted from 0 over all stages, that attend over the whole image instead."""
    position_grid: tuple[int, int]
    """Rows and columns of the learned position table, which is enlarged to the image's."""


SIZES: dict[str, Hiera] = {
    "tiny": Hiera(
        widths=(96, 192, 384, 768),
        num_blocks=(1, 2, 7, 2),
        num_heads=(1, 2, 4, 8),
        windows=(8, 4, 14, 7),
        global_attention_blocks=(5, 7, 9),
        position_grid=(7, 7),
    ),
    "small": Hiera(
        widths=(96, 192, 384, 768),
        num_blocks=(1, 2, 11, 2),
        num_heads=(1, 2, 4, 8),
        windows=(8, 4, 14, 7),
        global_attention_blocks=(7, 10, 13),
        position_grid=(7, 7),
    ),
    "base_plus": Hiera(
        widths=(112, 224, 448, 896),
        num_blocks=(2, 3, 16, 3),
        num_heads=(2, 4, 8, 16),
        windows=(8, 4, 14, 7),
        global_attention_blocks=(12, 16, 20),
        position_grid=(14, 14),
    ),
    "large": Hiera(
        widths=(144, 288, 576, 1152),
        num_blocks=(2, 6, 36, 4),
        num_heads=(2, 4, 8, 16),
        windows=(8, 4, 16, 8),
        global_attention_blocks=(23, 33, 43),
        position_grid=(7, 7),
    ),
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
        The model on the CPU in float32, in eval mode, with nothing to be trained.

    Raises:
        ConfigError: There is no such model.
        WeightsError: The weights are unknown, cannot be had, or do not fit the model.
        MissingFileError: The weights are a path that does not exist.
        MissingExtraError: ``transformers`` is not installed.
    """
    if model not in SAM2_DEFAULT_WEIGHTS:
        raise ConfigError(
            f"there is no SAM 2 {model!r}; give one of {', '.join(SAM2_DEFAULT_WEIGHTS)}"
            " (option models.sam)."
        )
    if weights == RANDOM:
        with random_weights(f"SAM 2 {model}", option=_OPTION):
            sam2 = build_sam2(model)
    else:
        path = _weights_path(model, weights)
        state = _image_part(read_state_dict(path), path)
        sam2 = build_sam2(model)
        load_strictly(sam2, state, source=str(path))
    freeze(sam2)
    return sam2


def build_sam2(model: str) -> "Sam2Model":
    """Build a released architecture from ``transformers``' own class, with fresh weights.

    Args:
        model: As in `load_sam2`.

    Returns:
        The model on the CPU, in training mode.
    """
    with needs_extra("transformers"):
        from transformers import Sam2Config, Sam2HieraDetConfig, Sam2Model, Sam2VisionConfig
    size = SIZES[model.partition("_hiera_")[2]]
    hiera = Sam2HieraDetConfig(
        hidden_size=size.widths[0],
        num_attention_heads=size.num_heads[0],
        embed_dim_per_stage=list(size.widths),
        blocks_per_stage=list(size.num_blocks),
        num_attention_heads_per_stage=list(size.num_heads),
        window_size_per_stage=list(size.windows),
        global_attention_blocks=list(size.global_attention_blocks),
        window_positional_embedding_background_size=list(size.position_grid),
    )
    vision = Sam2VisionConfig(
        backbone_config=hiera, backbone_channel_list=list(reversed(size.widths))
    )
    return Sam2Model(Sam2Config(vision_config=vision))


def _weights_path(model: str, weights: str) -> Path:
    own = SAM2_DEFAULT_WEIGHTS[model]
    if weights == own:
        return fetch_from_hub(own, _FILE, option=_OPTION)
    if weights in SAM2_DEFAULT_WEIGHTS.values():
        raise WeightsError(
            f"{weights} was asked for, but SAM 2 {model} goes with {own}: give models.sam and"
            f" {_OPTION} that belong together, or leave {_OPTION} away."
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
    """Leave out what only videos need, and say so."""
    if any(key.startswith("image_encoder.trunk.") for key in state):
        raise WeightsError(
            f"{path} has the names of SAM 2's own repository; wanted those of transformers. Give"
            f" the {_FILE} of the repository of the same name, for instance"
            " https://huggingface.co/facebook/sam2.1-hiera-tiny."
        )
    kept = {key: value for key, value in state.items() if not key.startswith(_VIDEO_KEYS)}
    if len(kept) < len(state):
        begun = sorted({key.partition(".")[0] for key in state.keys() - kept.keys()})
        _logger.info("%s: ignored %s, which are for videos", path, ", ".join(begun))
    if _POSITION in kept:
        kept.setdefault(_POSITION_AGAIN, kept[_POSITION])
    return kept
