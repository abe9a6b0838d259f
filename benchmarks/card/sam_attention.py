"""(a) SAM's image encoder: ours against ``segment_anything``'s own, and against a mask.

segment-anything-fast (https://github.com/pytorch-labs/segment-anything-fast) gives the decomposed
relative positions to ``scaled_dot_product_attention`` as one mask, in bfloat16 weights, compiled.
That idea is put together here from ``sam_encoder.py``'s form "mask", with the mask in one piece.
"""

import copy
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import torch
from card.sizes import SIZES
from card.table import Row
from card.worker import Setup
from common.timing import median_ratio, timed_in_turn
from torch import Tensor, nn

from regionspot.backbones import PRESETS, encode_image, load_sam
from regionspot.backbones.execution import keep_norms_in_float32

if TYPE_CHECKING:
    from segment_anything.modeling.image_encoder import ImageEncoderViT

Encode = Callable[[Tensor], Tensor]
STOCK = "segment_anything, bfloat16, eager"
_IN_ONE_PIECE = 1 << 62


def sam_attention(setup: Setup) -> Iterator[Row]:
    """Time the eager forms in turn, then each that is compiled beside the first of them."""
    size, device = SIZES[setup.size], torch.device(setup.device)
    encoder = _random_encoder(PRESETS[size.preset][0]).to(device)
    generator = torch.Generator().manual_seed(0)
    side, num_images = encoder.img_size, size.attention_batch
    pixels = torch.randn(num_images, 3, side, side, generator=generator).to(device)
    with torch.inference_mode():
        wanted = encoder(pixels)
    eager = _eager(encoder)
    yield from _compared(eager, pixels, wanted, device, size.rounds)
    for name, way in _to_be_compiled(encoder).items():
        compiled = torch.compile(way, dynamic=False, backend=size.compile_backend)
        ways = {STOCK: eager[STOCK], name: compiled}
        rows = list(_compared(ways, pixels, wanted, device, size.rounds))
        yield from (row for row in rows if STOCK not in row.what)


def _eager(encoder: "ImageEncoderViT") -> dict[str, Encode]:
    in_16_bits = copy.deepcopy(encoder).bfloat16()
    return {
        STOCK: _cast(in_16_bits),
        "segment_anything, float32, eager": encoder,
        "ours, folded, bfloat16, eager": _autocast(encoder, partial(encode_image, form="folded")),
    }


def _to_be_compiled(encoder: "ImageEncoderViT") -> dict[str, Encode]:
    in_16_bits = copy.deepcopy(encoder).bfloat16()
    one_mask = partial(encode_image, in_16_bits, form="mask", mask_numbers=_IN_ONE_PIECE)
    folded = partial(encode_image, form="folded")
    return {
        "ours, folded, bfloat16, compiled": _autocast(encoder, folded),
        "relative positions as one mask, bfloat16, compiled": _cast(one_mask),
        "segment_anything, bfloat16, compiled": _cast(in_16_bits),
    }


def _cast(encode: Encode) -> Encode:
    """Return an encoder with bfloat16 weights as one from float32 to float32."""
    return lambda pixels: encode(pixels.bfloat16()).float()


def _autocast(encoder: "ImageEncoderViT", encode: Callable[..., Tensor]) -> Encode:
    """Return an encoder as `SamLocalizer` runs it in bfloat16."""
    from segment_anything.modeling.common import LayerNorm2d

    own = copy.deepcopy(encoder)
    keep_norms_in_float32(own, LayerNorm2d)
    device_type = next(encoder.parameters()).device.type

    def run(pixels: Tensor) -> Tensor:
        with torch.autocast(device_type, torch.bfloat16):
            return encode(own, pixels).float()

    return run


def _compared(
    ways: dict[str, Encode], pixels: Tensor, wanted: Tensor, device: torch.device, rounds: int
) -> Iterator[Row]:
    with torch.inference_mode():
        errors = {
            name: float((way(pixels) - wanted).norm() / wanted.norm()) for name, way in ways.items()
        }
        calls = {name: partial(way, pixels) for name, way in ways.items()}
        times = timed_in_turn(calls, device, rounds=rounds, calls=2)
    stock_rate = len(pixels) / statistics.median(times[STOCK])
    for name, seconds in times.items():
        yield Row(
            what=f"SAM's encoder: {name}",
            figure=len(pixels) / statistics.median(seconds),
            unit="images/s",
            peer=f"{STOCK}: {stock_rate:,.1f}",
            ratio=median_ratio(times[STOCK], seconds),
        )
        if errors[name]:
            yield Row(
                what=f"relative error: {name}",
                figure=errors[name],
                unit="of the root mean square",
                peer="segment_anything, float32, eager",
            )


def _random_encoder(name: str) -> "ImageEncoderViT":
    """Build one whose relative positions say something; SAM's start at zero."""
    encoder = load_sam(name, "random").image_encoder
    generator = torch.Generator().manual_seed(1)
    for block in encoder.blocks:
        for parameter in (block.attn.rel_pos_h, block.attn.rel_pos_w):
            nn.init.normal_(parameter, std=0.1, generator=generator)
    return encoder
