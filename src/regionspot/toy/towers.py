"""Builds the toy world's SAM and CLIP from their two json files, out of the libraries' own classes.

The files are described in ``docs/toy_world.md``. Training needs fresh models without weights;
`regionspot.backbones` is what loads the trained ones for use.
"""

import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from safetensors.torch import load_file, save_file
from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)
from torch import Tensor, nn

from regionspot.backbones.tokenizer import WordTokenizer
from regionspot.toy.captions import WORDS


@dataclass(frozen=True, slots=True, kw_only=True)
class SamShape:
    """The numbers that a Sam is built from; the keys of ``sam.json``."""

    image_size: int = 128
    patch_size: int = 8
    encoder_dim: int = 96
    encoder_depth: int = 4
    encoder_heads: int = 4
    encoder_mlp_ratio: float = 4.0
    global_attention_blocks: tuple[int, ...] = (1, 3)
    window_size: int = 8
    prompt_dim: int = 128
    mask_in_chans: int = 8
    decoder_depth: int = 2
    decoder_heads: int = 4
    decoder_mlp_dim: int = 256
    num_multimask_outputs: int = 3
    iou_head_depth: int = 2
    iou_head_hidden_dim: int = 64
    pixel_mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    pixel_std: tuple[float, ...] = (58.395, 57.12, 57.375)


def build_sam(shape: SamShape) -> Sam:
    """Build a Sam with fresh weights from ``segment_anything``'s own modules.

    Args:
        shape: All the numbers of the architecture.

    Returns:
        The model, in training mode, on the CPU.
    """
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


def clip_config(shape: ClipShape) -> dict[str, object]:
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
    """Build a CLIP with fresh weights from ``open_clip``'s own classes.

    Args:
        shape: All the numbers of the architecture.

    Returns:
        The model, in training mode, on the CPU.
    """
    config = clip_config(shape)
    vision, text = config["vision_cfg"], config["text_cfg"]
    return CLIP(
        embed_dim=shape.embed_dim,
        vision_cfg=CLIPVisionCfg(**vision),  # type: ignore[arg-type]
        text_cfg=CLIPTextCfg(**text),  # type: ignore[arg-type]
    )


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
