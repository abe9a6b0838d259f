"""The numbers of the toy world's SAM and CLIP, and their files.

The files are described in ``docs/toy_world.md``. Training needs fresh models without weights;
`regionspot.backbones` is what loads the trained ones for use.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.model import CLIP
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from regionspot.backbones import SamShape, WordTokenizer
from regionspot.backbones.clip import build_tiny_clip
from toy_towers.captions import WORDS

TINY_SAM = SamShape(
    image_size=128,
    patch_size=8,
    encoder_dim=96,
    encoder_depth=4,
    encoder_heads=4,
    encoder_mlp_ratio=4.0,
    global_attention_blocks=(1, 3),
    window_size=8,
    prompt_dim=128,
    mask_in_chans=8,
    decoder_depth=2,
    decoder_heads=4,
    decoder_mlp_dim=256,
    num_multimask_outputs=3,
    iou_head_depth=2,
    iou_head_hidden_dim=64,
    pixel_mean=(123.675, 116.28, 103.53),
    pixel_std=(58.395, 57.12, 57.375),
)
"""The toy world's SAM; spelled out again in ``sam.json``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipShape:
    """The numbers that a CLIP is built from; ``clip.json`` spells them as open_clip does."""

    image_size: int = 96
    patch_size: int = 8
    vision_width: int = 128
    vision_layers: int = 4
    vision_head_width: int = 32
    embed_dim: int = 128
    context_length: int = 32
    text_width: int = 128
    text_heads: int = 4
    text_layers: int = 2
    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)


def clip_config(shape: ClipShape) -> dict[str, Any]:
    """Spell the architecture as open_clip's model configs do, with two keys of our own.

    Args:
        shape: All the numbers of the architecture.

    Returns:
        What ``clip.json`` holds: ``embed_dim``, ``vision_cfg``, ``text_cfg``, and ours:
        ``tokenizer`` with its words and ``preprocess`` with mean and std of RGB in 0..1.
    """
    return {
        "embed_dim": shape.embed_dim,
        "vision_cfg": {
            "image_size": shape.image_size,
            "patch_size": shape.patch_size,
            "width": shape.vision_width,
            "layers": shape.vision_layers,
            "head_width": shape.vision_head_width,
            "mlp_ratio": 4.0,
        },
        "text_cfg": {
            "context_length": shape.context_length,
            "vocab_size": clip_tokenizer(shape).vocab_size,
            "width": shape.text_width,
            "heads": shape.text_heads,
            "layers": shape.text_layers,
        },
        "tokenizer": {"words": list(WORDS)},
        "preprocess": {"mean": list(shape.mean), "std": list(shape.std)},
    }


def clip_tokenizer(shape: ClipShape) -> WordTokenizer:
    """Make the tokenizer that belongs to a `ClipShape`: it knows `captions.WORDS`."""
    return WordTokenizer(WORDS, shape.context_length)


def build_clip(shape: ClipShape) -> CLIP:
    """Build a CLIP with fresh weights, in training mode, on the CPU."""
    return build_tiny_clip(clip_config(shape))


def normalised_pixels(images: NDArray[np.uint8]) -> Tensor:
    """Turn RGB bytes, (B, H, W, 3), into the tower's input, (B, 3, H, W) float32."""
    shape = ClipShape()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (shape.mean, shape.std))
    return (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - mean) / std


def save_tower(model: nn.Module, config: dict[str, object], stem: Path) -> None:
    """Write ``<stem>.json`` and ``<stem>.safetensors``; weights are stored as float16.

    Args:
        model: A tower; its state dict is saved under the library's own key names.
        config: What the json file holds.
        stem: Path without suffix; the folder is created.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_suffix(".json").write_text(json.dumps(config, indent=2) + "\n")
    halves = {
        key: value.detach().half().contiguous() if value.is_floating_point() else value.clone()
        for key, value in model.state_dict().items()
    }
    save_file(halves, stem.with_suffix(".safetensors"))


def load_weights(model: nn.Module, path: Path) -> None:
    """Load stored weights into a model, which keeps its dtype; every key has to match.

    Args:
        model: A tower built with the same shape.
        path: A file written by `save_tower`.
    """
    model.load_state_dict(load_file(path), strict=True)


def sam_config(shape: SamShape) -> dict[str, object]:
    """Spell out what ``sam.json`` holds."""
    return asdict(shape)


def round_to_half(model: nn.Module) -> None:
    """Round all weights to float16 values, so that what is measured is what is shipped."""
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.copy_(value.half().float())
