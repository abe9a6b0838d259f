"""SAM's image encoder, faster than its own ``forward`` and equal to it up to rounding.

``segment_anything`` writes each attention matrix to memory several times (at 1024 px it has 4096 x
4096 numbers a head), and projects the padding of windows like image content. Here attention is
``scaled_dot_product_attention``, and padding, whose keys and values are just biases, is added after
the projection. The modules and their weights are SAM's own.

SAM adds ``q . R_h[row] + q . R_w[column]`` to each logit, where R depends on the distance between
query and key (decomposed relative positions, https://arxiv.org/abs/2112.01526). There are two ways
to pass this sum to ``scaled_dot_product_attention``:

- as its mask, for so few queries at a time that mask and keys stay in a CPU's cache;
- folded into longer queries and keys, ``[q s, q . R_h, q . R_w]`` and ``[k, one-hot row, one-hot
  column]``, without a mask in memory, so that a GPU can use its flash kernel.

Shape letters: B images (or windows), H W a grid of patches, N = H * W, C width of the encoder,
M = B * heads, d width of a head, S SAM's width.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from segment_anything.modeling.image_encoder import Attention, Block, ImageEncoderViT

AttentionForm = Literal["mask", "folded"]
"""How relative positions are passed to ``scaled_dot_product_attention``."""

MASK_NUMBERS = 1 << 21
"""Numbers of a mask that are computed at once: 8 MiB in float32."""

_Attend = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def encode_image(
    encoder: "ImageEncoderViT",
    pixels_BCHW: Tensor,
    *,
    form: AttentionForm | None = None,
    mask_numbers: int = MASK_NUMBERS,
) -> Tensor:
    """Return the image embedding, (B, S, H, W), as the encoder's own ``forward`` does.

    Args:
        encoder: An image encoder of ``segment_anything`` in eval mode.
        pixels_BCHW: Preprocessed images, float32, (B, 3, side, side).
        form: How to add relative positions; by default "mask" on a CPU, and "folded" elsewhere and
            while compiling.
        mask_numbers: Numbers of a mask to compute at once; at least a row of queries is.
    """
    if form is None:
        on_cpu = pixels_BCHW.device.type == "cpu" and not torch.compiler.is_compiling()
        form = "mask" if on_cpu else "folded"
    attend = _attend_folded
    if form == "mask":
        attend = partial(_attend_with_mask, mask_numbers=mask_numbers)
    state_BHWC = encoder.patch_embed(pixels_BCHW)
    if encoder.pos_embed is not None:
        state_BHWC = state_BHWC + encoder.pos_embed
    for block in encoder.blocks:
        state_BHWC = state_BHWC + _attention(block, block.norm1(state_BHWC), attend)
        state_BHWC = state_BHWC + block.mlp(block.norm2(state_BHWC))
    embedding_BSHW: Tensor = encoder.neck(state_BHWC.permute(0, 3, 1, 2))
    return embedding_BSHW


def _attention(block: "Block", x_BHWC: Tensor, attend: _Attend) -> Tensor:
    """Attend over the whole grid, or within windows of it."""
    module, side = block.attn, block.window_size
    qkv_BHWC = module.qkv(x_BHWC)
    if side == 0:
        return torch.as_tensor(module.proj(_attend(module, qkv_BHWC, attend)))
    _, height, width, _ = qkv_BHWC.shape
    padded_hw = (-height % side, -width % side)
    windows_BHWC = _split(_pad(qkv_BHWC, padded_hw, module.qkv.bias), side)
    of_windows_BHWC = _attend(module, windows_BHWC, attend)
    attended_BHWC = _join(of_windows_BHWC, side, len(x_BHWC), width + padded_hw[1])
    return torch.as_tensor(module.proj(attended_BHWC[:, :height, :width]))


def _pad(qkv_BHWC: Tensor, padded_hw: tuple[int, int], bias: Tensor | None) -> Tensor:
    """Pad at the bottom and right with the projection of zeros."""
    if padded_hw == (0, 0):
        return qkv_BHWC
    batch, height, width, channels = qkv_BHWC.shape
    size = (batch, height + padded_hw[0], width + padded_hw[1], channels)
    if bias is None:
        padded_BHWC = qkv_BHWC.new_zeros(size)
    else:
        padded_BHWC = bias.to(qkv_BHWC.dtype).expand(size).clone()
    padded_BHWC[:, :height, :width] = qkv_BHWC
    return padded_BHWC


def _split(x_BHWC: Tensor, side: int) -> Tensor:
    """Cut a grid into windows, which become the batch."""
    return (
        x_BHWC.unfold(1, side, side).unfold(2, side, side).permute(0, 1, 2, 4, 5, 3).flatten(0, 2)
    )


def _join(windows_BHWC: Tensor, side: int, num_images: int, width: int) -> Tensor:
    """Undo `_split`."""
    grid = windows_BHWC.unflatten(0, (num_images, -1, width // side))
    return grid.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _attend(module: "Attention", qkv_BHWC: Tensor, attend: _Attend) -> Tensor:
    """Attend with projected queries, keys and values, (B, H, W, 3 C), to (B, H, W, C)."""
    batch, height, width, _ = qkv_BHWC.shape
    q, k, v = (
        qkv_BHWC.reshape(batch, height * width, 3, module.num_heads, -1)
        .permute(2, 0, 3, 1, 4)
        .flatten(1, 2)  # M = B * heads
        .unbind(0)
    )
    if module.use_rel_pos:
        rows_MHWH, columns_MHWW = _relative_positions(module, q.unflatten(1, (height, width)))
        attended_MNd = attend(q, k, v, rows_MHWH, columns_MHWW)
    else:
        attended_MNd = F.scaled_dot_product_attention(q[None], k[None], v[None])[0]
    of_images = attended_MNd.unflatten(0, (batch, -1)).transpose(1, 2)
    return of_images.reshape(batch, height, width, -1)


def _relative_positions(module: "Attention", q_MHWd: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits that each query adds for each row of keys, and for each column."""
    from segment_anything.modeling.image_encoder import get_rel_pos

    _, height, width, _ = q_MHWd.shape
    rows_HHd = get_rel_pos(height, height, module.rel_pos_h)
    columns_WWd = get_rel_pos(width, width, module.rel_pos_w)
    return (
        torch.einsum("mhwd,hkd->mhwk", q_MHWd, rows_HHd),
        torch.einsum("mhwd,wkd->mhwk", q_MHWd, columns_WWd),
    )


def _attend_with_mask(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rows_MHWH: Tensor,
    columns_MHWW: Tensor,
    *,
    mask_numbers: int,
) -> Tensor:
    """Attend with a mask, piece by piece; (M, N, d) each."""
    _, height, width, _ = rows_MHWH.shape
    out = torch.empty_like(q)
    for heads, grid_rows in _pieces(len(q), height, width, mask_numbers):
        mask = rows_MHWH[heads, grid_rows, :, :, None] + columns_MHWW[heads, grid_rows, :, None, :]
        queries = slice(grid_rows.start * width, grid_rows.stop * width)
        out[heads, queries] = F.scaled_dot_product_attention(
            q[None, heads, queries],
            k[None, heads],
            v[None, heads],
            attn_mask=mask.flatten(3).flatten(1, 2)[None],
        )[0]
    return out


def _pieces(
    num_heads: int, height: int, width: int, mask_numbers: int
) -> Iterator[tuple[slice, slice]]:
    """Cut M heads and H rows of queries so that the mask of a piece is small."""
    of_row = width * height * width
    num_rows = min(height, max(1, mask_numbers // of_row))
    step = max(1, mask_numbers // (of_row * num_rows)) if num_rows == height else 1
    for head in range(0, num_heads, step):
        for row in range(0, height, num_rows):
            yield slice(head, head + step), slice(row, min(row + num_rows, height))


def _attend_folded(
    q: Tensor, k: Tensor, v: Tensor, rows_MHWH: Tensor, columns_MHWW: Tensor
) -> Tensor:
    """Attend with longer queries and keys; (M, N, d) each."""
    _, height, width, _ = rows_MHWH.shape
    one_hot_N = torch.cat(
        [
            torch.eye(height, dtype=k.dtype, device=k.device).repeat_interleave(width, dim=0),
            torch.eye(width, dtype=k.dtype, device=k.device).repeat(height, 1),
        ],
        dim=1,
    )
    head_dim = q.shape[-1]
    longer_q = torch.cat(
        [q * head_dim**-0.5, rows_MHWH.flatten(1, 2), columns_MHWW.flatten(1, 2)], -1
    )
    longer_k = torch.cat([k, one_hot_N.expand(len(k), -1, -1)], dim=-1)
    # Flash kernels need values as wide as keys.
    wide_v = F.pad(v, (0, height + width))
    attended = F.scaled_dot_product_attention(
        longer_q[None], longer_k[None], wide_v[None], scale=1.0
    )
    return attended[0, ..., :head_dim]
