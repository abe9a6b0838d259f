"""SAM's image encoder against ``segment_anything``'s own ``forward``."""

from functools import partial

import pytest
import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import ImageEncoderViT
from torch import nn

from helpers.sam import small_sam
from regionspot.backbones import SamLocalizer, encode_image, load_sam
from regionspot.backbones.sam_encoder import AttentionForm

FORMS: tuple[AttentionForm, ...] = ("mask", "folded")


def _encoder(**changes: object) -> ImageEncoderViT:
    """A small one whose every parameter matters: SAM's relative positions and biases start at 0."""
    options: dict[str, object] = {
        "img_size": 64,
        "patch_size": 8,
        "embed_dim": 32,
        "depth": 3,
        "num_heads": 2,
        "mlp_ratio": 2.0,
        "out_chans": 16,
        "qkv_bias": True,
        "norm_layer": partial(nn.LayerNorm, eps=1e-6),
        "use_rel_pos": True,
        "window_size": 4,
        "global_attn_indexes": (1,),
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = ImageEncoderViT(**{**options, **changes}).eval()
        for parameter in encoder.parameters():
            nn.init.normal_(parameter, std=0.3)
    return encoder


def _pixels(num_images: int, side: int) -> torch.Tensor:
    return torch.randn(num_images, 3, side, side, generator=torch.Generator().manual_seed(1))


def _largest_relative_difference(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"window_size": 3},  # 8 patches a side: padded windows
        {"window_size": 14},  # one window, larger than the image
        {"global_attn_indexes": ()},
        {"window_size": 0},
        {"qkv_bias": False, "window_size": 3},
        {"use_rel_pos": False, "window_size": 3},
        {"use_abs_pos": False},
    ],
    ids=str,
)
@torch.inference_mode()
def test_the_embedding_is_that_of_segment_anything(
    changes: dict[str, object], form: AttentionForm
) -> None:
    encoder = _encoder(**changes)
    pixels = _pixels(2, 64)
    torch.testing.assert_close(
        encode_image(encoder, pixels, form=form), encoder(pixels), rtol=1e-5, atol=1e-5
    )


@torch.inference_mode()
def test_attention_over_many_patches_is_done_in_pieces() -> None:
    encoder = _encoder(img_size=128)  # 16 x 16 patches
    pixels = _pixels(1, 128)
    wanted = encoder(pixels)
    for numbers in (1, 4096 * 3, 1 << 30):  # one row of queries, three of them, all heads
        found = encode_image(encoder, pixels, form="mask", mask_numbers=numbers)
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_the_localizer_embeds_by_it() -> None:
    sam = small_sam()
    for block in sam.image_encoder.blocks:
        nn.init.normal_(block.attn.rel_pos_h)
        nn.init.normal_(block.attn.rel_pos_w)
    pixels = _pixels(3, 64)
    localizer = SamLocalizer(sam, token_site="transformer", model_name="small")  # noqa: S106
    embedded = localizer.embed(pixels)
    torch.testing.assert_close(embedded, sam.image_encoder(pixels), rtol=1e-5, atol=1e-5)
    assert torch.equal(embedded, encode_image(sam.image_encoder, pixels, form="mask"))


@torch.inference_mode()
def test_the_shipped_tiny_sam_embeds_as_segment_anything_lets_it() -> None:
    encoder = load_sam("tiny", "shipped").image_encoder
    pixels = _pixels(2, encoder.img_size)
    wanted = encoder(pixels)
    for form in FORMS:
        found = encode_image(encoder, pixels, form=form)
        assert _largest_relative_difference(found, wanted) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
@torch.inference_mode()
def test_the_released_architectures_embed_to_1e_5(name: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = sam_model_registry[name](checkpoint=None).image_encoder.eval()
        for block in encoder.blocks:
            nn.init.normal_(block.attn.rel_pos_h, std=0.1)
            nn.init.normal_(block.attn.rel_pos_w, std=0.1)
            nn.init.normal_(block.attn.qkv.bias, std=0.1)
    pixels = _pixels(1, 1024)
    wanted = encoder(pixels)
    for form in FORMS:
        found = encode_image(encoder, pixels, form=form)
        assert _largest_relative_difference(found, wanted) < 1e-5
