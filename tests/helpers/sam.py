"""The genuine SAM, made small."""

import torch
from segment_anything.modeling import Sam

from regionspot.backbones import SamShape, build_sam

SMALL_SAM = SamShape(
    image_size=64,
    patch_size=8,
    encoder_dim=32,
    encoder_depth=2,
    encoder_heads=2,
    encoder_mlp_ratio=2.0,
    global_attention_blocks=(1,),
    window_size=4,
    prompt_dim=32,
    mask_in_chans=8,
    decoder_depth=2,
    decoder_heads=2,
    decoder_mlp_dim=64,
    num_multimask_outputs=3,
    iou_head_depth=2,
    iou_head_hidden_dim=16,
    pixel_mean=(123.675, 116.28, 103.53),
    pixel_std=(58.395, 57.12, 57.375),
)


def small_sam() -> Sam:
    """Build it with seeded random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_sam(SMALL_SAM).eval()
