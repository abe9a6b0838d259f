"""The fusion head: the only trained part of RegionSpot (arXiv 2311.01373, section 3.2).

Shapes: `B` images, `R` regions (padded), `T` feature tokens; widths: `S` SAM, `D` CLIP, `E` text.
"""

import math
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from regionspot.core.errors import ConfigError, ShapeError
from regionspot.model.attention import Attention


def sincos_position_code(num_tokens: int, width: int, *, device: torch.device) -> Tensor:
    """Return a 2-D sine-cosine code of a square patch grid with a class token in front.

    The patch tokens of real CLIP encoders contain their positions; those of a very small encoder
    may not. The code is not in the paper.

    Args:
        num_tokens: Tokens of the feature map: one class token and a square number of patches,
            row-major.
        width: Channels of the code; a multiple of 4.
        device: Where to make it.

    Returns:
        (num_tokens, width) float32: zeros for the class token; for a patch sines and cosines of x,
        then of y.

    Raises:
        ShapeError: The patches do not form a square, or the width is not a multiple of 4.
    """
    side = math.isqrt(max(num_tokens - 1, 0))
    if side * side != num_tokens - 1 or side == 0:
        raise ShapeError(
            f"position_code 'sincos' needs a class token and a square grid of patches, found"
            f" {num_tokens} feature tokens (26 would be 1 + 5 x 5). Set position_code to 'none'."
        )
    if width % 4:
        raise ShapeError(f"position_code 'sincos' needs a width in fours, found {width}.")
    frequencies = 2 / 100 ** (torch.arange(width // 4, device=device) / (width / 4))
    along = torch.arange(side, device=device) / side * (2 * math.pi)
    angles = along[:, None] * frequencies
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)  # one grid axis, (side, width / 2)
    x_code = waves[None, :, :].expand(side, -1, -1)
    y_code = waves[:, None, :].expand(-1, side, -1)
    patches = torch.cat([x_code, y_code], dim=-1).flatten(0, 1)
    return torch.cat([patches.new_zeros(1, width), patches])


PositionCode = Literal["none", "sincos"]


# Without slots, as jsonargparse reads the default values of a group from ``__dict__``.
@dataclass(frozen=True, kw_only=True)
class HeadOptions:
    """Shape of a fusion head, apart from the widths that the cache decides."""

    num_blocks: int = 3
    """Number of decoder blocks."""
    num_heads: int = 8
    """Attention heads of a block; must divide the width of the feature map."""
    ffn_dim: int = 2048
    """Hidden width of a block's feed-forward part."""
    dropout: float = 0.1
    """Share of activations dropped in training, in [0, 1)."""
    normalize_inputs: bool = False
    """Give both inputs zero mean and unit variance first; not in the paper."""
    position_code: PositionCode = "none"
    """'sincos' adds a fixed code of the patch grid to the feature map; not in the paper."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadSpec(HeadOptions):
    """Everything that determines a fusion head except its weights; the defaults are BL.

    Raises:
        ConfigError: A value cannot work.
    """

    token_dim: int = 256
    """Width of the position tokens (S)."""
    feature_dim: int = 1024
    """Width of the feature map, and of the head (D)."""
    text_dim: int = 768
    """Width of the text space that regions are projected to (E)."""

    def __post_init__(self) -> None:
        for name in (
            "token_dim",
            "feature_dim",
            "text_dim",
            "num_blocks",
            "num_heads",
            "ffn_dim",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"head option {name} is {getattr(self, name)}; wanted 1 or more.")
        if self.feature_dim % self.num_heads:
            raise ConfigError(
                f"num_heads is {self.num_heads}, which does not divide feature_dim"
                f" {self.feature_dim}. Set model.head.num_heads to one of its divisors."
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"head option dropout is {self.dropout}; wanted a share in [0, 1).")
        if self.position_code not in ("none", "sincos"):
            raise ConfigError(
                f"head option position_code is {self.position_code!r}; wanted 'none' or 'sincos'."
            )


class FusionHead(nn.Module):
    """Fuse position tokens with the image's feature map into region embeddings.

    Regions attend to each other and to the whole feature map in post-norm decoder blocks, and are
    projected into CLIP's text space. Equal, weight for weight, to ``Linear`` ->
    ``torch.nn.TransformerDecoder`` -> ``LayerNorm`` -> ``Linear``, except that padding is masked:
    an image's result depends on that image alone.

    Args:
        spec: Widths and shape of the head; the weights are drawn at random.
    """

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__()
        self.spec = spec
        self.to_clip = nn.Linear(spec.token_dim, spec.feature_dim)
        self.decoder = Decoder(spec)
        self.projector = nn.Linear(spec.feature_dim, spec.text_dim)

    @override
    def forward(
        self,
        position_tokens_BRS: Tensor,
        feature_map_BTD: Tensor,
        region_mask_BR: Tensor | None = None,
    ) -> Tensor:
        """Embed regions in CLIP's text space.

        Args:
            position_tokens_BRS: Position tokens, (B, R, S), any float dtype.
            feature_map_BTD: Feature maps, class token first, (B, T, D), any float dtype.
            region_mask_BR: True for a real region, (B, R) bool; None when all are. Whatever stands
                in the padding has no influence.

        Returns:
            Region embeddings, (B, R, E), not normalised; zeros for padding. ``R == 0`` gives
            (B, 0, E).

        Raises:
            ShapeError: The shapes do not fit each other or the head.
        """
        self._check_shapes(position_tokens_BRS, feature_map_BTD, region_mask_BR)
        batch_size, num_regions, _ = position_tokens_BRS.shape
        if batch_size * num_regions == 0:
            # Tied to all parameters, so that each gets a gradient (zeros): DDP waits for them all.
            tie = torch.stack([parameter.sum() for parameter in self.parameters()]).sum()
            return tie.new_zeros(batch_size, num_regions, self.spec.text_dim) + tie
        queries_BRD, memory_BTD, attend_BR = self._prepare(
            position_tokens_BRS, feature_map_BTD, region_mask_BR
        )
        embeddings_BRE = self.projector(self.decoder(queries_BRD, memory_BTD, attend_BR))
        if region_mask_BR is None:
            return embeddings_BRE
        return embeddings_BRE.masked_fill(~region_mask_BR[..., None], 0.0)

    def attention_maps(
        self,
        position_tokens_BRS: Tensor,
        feature_map_BTD: Tensor,
        region_mask_BR: Tensor | None = None,
    ) -> Tensor:
        """Return where in the image the last block looks for each region.

        Args:
            position_tokens_BRS: Position tokens, (B, R, S).
            feature_map_BTD: Feature maps, (B, T, D).
            region_mask_BR: True for a real region, (B, R) bool; None when all are.

        Returns:
            Cross-attention weights, mean of the heads, (B, R, T) float32; a row sums to 1, also
            for padding (where it means nothing).

        Raises:
            ShapeError: The shapes do not fit each other or the head.
        """
        self._check_shapes(position_tokens_BRS, feature_map_BTD, region_mask_BR)
        batch_size, num_regions, _ = position_tokens_BRS.shape
        if batch_size * num_regions == 0:
            return feature_map_BTD.new_zeros(
                batch_size, num_regions, feature_map_BTD.shape[1], dtype=torch.float32
            )
        return self.decoder.attention_maps(
            *self._prepare(position_tokens_BRS, feature_map_BTD, region_mask_BR)
        )

    def _prepare(
        self, tokens_BRS: Tensor, feature_map_BTD: Tensor, region_mask_BR: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return decoder queries (B, R, D), memory (B, T, D) and which regions may be seen."""
        dtype = self.to_clip.weight.dtype
        tokens_BRS, memory_BTD = tokens_BRS.to(dtype), feature_map_BTD
        attend_BR = None
        if region_mask_BR is not None:
            # NaN times a weight of zero is NaN, so the content of the padding has to go, too.
            tokens_BRS = tokens_BRS.masked_fill(~region_mask_BR[..., None], 0.0)
            # An image without regions looks at its padding: a softmax over nothing is NaN.
            attend_BR = region_mask_BR | ~region_mask_BR.any(dim=1, keepdim=True)
        if self.spec.normalize_inputs:
            tokens_BRS = F.layer_norm(tokens_BRS, tokens_BRS.shape[-1:])
            memory_BTD = F.layer_norm(memory_BTD.to(dtype), memory_BTD.shape[-1:])
        if self.spec.position_code == "sincos":
            num_tokens, width = memory_BTD.shape[1:]
            code_TD = sincos_position_code(num_tokens, width, device=memory_BTD.device)
            memory_BTD = memory_BTD.to(dtype) + code_TD.to(dtype)
        return self.to_clip(tokens_BRS), memory_BTD.to(self._matmul_dtype()), attend_BR

    def _matmul_dtype(self) -> torch.dtype:
        """Return what autocast would turn the memory into, once for each block that reads it."""
        weight = self.to_clip.weight
        if torch.is_autocast_enabled(weight.device.type):
            return torch.get_autocast_dtype(weight.device.type)
        return weight.dtype

    def _check_shapes(
        self, tokens_BRS: Tensor, feature_map_BTD: Tensor, region_mask_BR: Tensor | None
    ) -> None:
        if tokens_BRS.ndim != 3 or tokens_BRS.shape[-1] != self.spec.token_dim:
            raise ShapeError(
                f"position tokens have shape {tuple(tokens_BRS.shape)}; this head wants"
                f" (B, R, {self.spec.token_dim}), one token a region."
            )
        wanted = (len(tokens_BRS), "T", self.spec.feature_dim)
        found = tuple(feature_map_BTD.shape)
        if len(found) != 3 or (found[0], found[2]) != (wanted[0], wanted[2]) or found[1] == 0:
            raise ShapeError(
                f"feature map has shape {found}; wanted ({wanted[0]}, T >= 1, {wanted[2]}) with the"
                " class token first. A feature map of another CLIP needs another head."
            )
        if region_mask_BR is None:
            return
        if region_mask_BR.shape != tokens_BRS.shape[:2] or region_mask_BR.dtype != torch.bool:
            raise ShapeError(
                f"region mask is {region_mask_BR.dtype} {tuple(region_mask_BR.shape)}; wanted bool"
                f" {tuple(tokens_BRS.shape[:2])}, True for a real region."
            )


class Decoder(nn.Module):
    """Decoder blocks and a final layer norm, named as in `torch.nn.TransformerDecoder`."""

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderBlock(spec) for _ in range(spec.num_blocks))
        self.norm = nn.LayerNorm(spec.feature_dim)

    @override
    def forward(self, queries_BRD: Tensor, memory_BTD: Tensor, attend_BR: Tensor | None) -> Tensor:
        """Refine queries, (B, R, D); ``attend_BR`` is True where a region may be seen."""
        for block in self.layers:
            queries_BRD = block(queries_BRD, memory_BTD, attend_BR)
        return self.norm(queries_BRD)

    def attention_maps(
        self, queries_BRD: Tensor, memory_BTD: Tensor, attend_BR: Tensor | None
    ) -> Tensor:
        """Return the last block's cross-attention weights, (B, R, T)."""
        for block in self.layers[:-1]:
            queries_BRD = block(queries_BRD, memory_BTD, attend_BR)
        last = cast("DecoderBlock", self.layers[-1])
        return last.attention_maps(queries_BRD, memory_BTD, attend_BR)


class DecoderBlock(nn.Module):
    """Self-attention, cross-attention and a ReLU network, each with residual and post-norm.

    Parameters are named as in `torch.nn.TransformerDecoderLayer`.
    """

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__()
        width = spec.feature_dim
        self.self_attn = Attention(width, spec.num_heads, dropout=spec.dropout)
        self.multihead_attn = Attention(width, spec.num_heads, dropout=spec.dropout)
        self.linear1 = nn.Linear(width, spec.ffn_dim)
        self.linear2 = nn.Linear(spec.ffn_dim, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(spec.dropout)

    @override
    def forward(self, x_BRD: Tensor, memory_BTD: Tensor, attend_BR: Tensor | None) -> Tensor:
        """Refine queries, (B, R, D)."""
        x_BRD = self._look_at_regions(x_BRD, attend_BR)
        x_BRD = self.norm2(x_BRD + self.dropout(self.multihead_attn(x_BRD, memory_BTD)))
        hidden = self.dropout(F.relu(self.linear1(x_BRD)))
        return self.norm3(x_BRD + self.dropout(self.linear2(hidden)))

    def attention_maps(self, x_BRD: Tensor, memory_BTD: Tensor, attend_BR: Tensor | None) -> Tensor:
        """Return this block's cross-attention weights, mean of the heads, (B, R, T)."""
        return self.multihead_attn.weights(self._look_at_regions(x_BRD, attend_BR), memory_BTD)

    def _look_at_regions(self, x_BRD: Tensor, attend_BR: Tensor | None) -> Tensor:
        return self.norm1(x_BRD + self.dropout(self.self_attn(x_BRD, x_BRD, attend_BR)))
