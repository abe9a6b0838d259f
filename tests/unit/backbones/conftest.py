"""Genuine SAM and CLIP classes, made small, with seeded random weights."""

import numpy as np
import open_clip
import pytest
import torch
from numpy.typing import NDArray
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from segment_anything.modeling import Sam

from helpers.sam import small_sam
from regionspot.backbones import (
    LoadedClip,
    SamLocalizer,
    WordTokenizer,
    describe_clip,
)

WORDS = ("a", "photo", "of", "red", "blue", "star", "egg", ".", "the")


@pytest.fixture(scope="session")
def sam() -> Sam:
    return small_sam().requires_grad_(requires_grad=False)


@pytest.fixture
def localizer(sam: Sam) -> SamLocalizer:
    return SamLocalizer(sam, token_site="transformer", model_name="small")  # noqa: S106


@pytest.fixture(scope="session")
def loaded_clip() -> LoadedClip:
    tokenizer = WordTokenizer(WORDS, context_length=16)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        clip = CLIP(
            embed_dim=24,
            vision_cfg=CLIPVisionCfg(
                layers=2, width=32, head_width=16, patch_size=8, image_size=32
            ),
            text_cfg=CLIPTextCfg(
                context_length=16, vocab_size=tokenizer.vocab_size, width=32, heads=2, layers=2
            ),
        )
    open_clip.model.set_model_preprocess_cfg(clip, {"mean": (0.5, 0.4, 0.3), "std": (0.2,) * 3})
    return describe_clip(clip, tokenizer=tokenizer, name="small")


@pytest.fixture(scope="session")
def photo() -> NDArray[np.uint8]:
    """A photo-like picture, 45 x 90 (height x width): smooth, with noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:45, 0:90]
    smooth = np.stack([2.8 * x, 5.6 * y, 127 + 60 * np.sin(x / 7) * np.cos(y / 5)], axis=2)
    return np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)
