"""The fusion head: the only trained part of RegionSpot (arXiv 2311.01373, section 3.2).

Shapes: `B` images, `R` regions (padded), `T` feature tokens; widths: `S` SAM, `D` CLIP, `E` text.
"""

import math
from dataclasses import dataclass
from typing import cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from regionspot.core.errors import ConfigError, ShapeError
from regionspot.model.attention import Attention
from regionspot.model.guidance import Guidance, GuidanceKind, tokens_outside
from regionspot.model.position_code import PositionCode, sincos_position_code


# Without slots, as jsonargparse reads the default values of a group from ``__dict__``.
@dataclass(frozen=True, kw_only=True)
class HeadOptions:
    """Shape of a fusion head, except for the widths, which the cache determines."""

    num_blocks: int = 3
    """Number of decoder blocks."""
    num_heads: int = 8
    """Number of attention heads; must divide the width of the feature map."""
    ffn_dim: int = 2048
    """Hidden width of a block's feed-forward network."""
    dropout: float = 0.1
    """Dropout probability in training, in [0, 1)."""
    normalize_inputs: bool = False
    """Whether to normalise both inputs to zero mean and unit variance; not in the paper."""
    position_code: PositionCode = "none"
    """'sincos' adds a fixed code of the patch grid to the feature map; not in the paper."""
    guidance: GuidanceKind = "none"
    """How cross-attention prefers the patches in a region's box: 'learned' lowers the scores of
    those outside by a learned number per attention head, 'halves' hides them from half of the
    heads; not in the paper."""
    guidance_spread: float = 0.0
    """For 'learned': the numbers of a block start evenly spaced from 0 to this value; with 0 the
    head starts as the paper's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadSpec(HeadOptions):
    """Everything that determines a fusion head except its weights; the defaults are BL.

    Raises:
        ConfigError: A value is out of range, or two do not fit each other.
    """

    token_dim: int = 256
    """Width of the position tokens (S)."""
    feature_dim: int = 1024
    """Width of the feature map, and of the head (D)."""
    text_dim: int = 768
    """Width of the text space that regions are projected to (E)."""

    def __post_init__(self) -> None:
        widths = ("token_dim", "feature_dim", "text_dim")
        for name in (*widths, "num_blocks", "num_heads", "ffn_dim"):
            if getattr(self, name) < 1:
                raise ConfigError(f"head option {name} is {getattr(self, name)}; wanted 1 or more.")
        if self.feature_dim % self.num_heads:
            raise ConfigError(
                f"num_heads is {self.num_heads}, which does not divide feature_dim"
                f" {self.feature_dim}. Set model.head.num_heads to one of its divisors."
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"head option dropout is {self.dropout}; wanted a share in [0, 1).")
        for name, kinds in (("position_code", PositionCode), ("guidance", GuidanceKind)):
            if getattr(self, name) not in get_args(kinds):
                raise ConfigError(
                    f"head option {name} is {getattr(self, name)!r}; wanted one of"
                    f" {', '.join(get_args(kinds))}."
                )
        self._check_guidance()

    def _check_guidance(self) -> None:
        if self.guidance == "halves" and self.num_heads < 2:
            raise ConfigError("guidance 'halves' needs model.head.num_heads 2 or more, found 1.")
        if not 0.0 <= self.guidance_spread < math.inf:
            raise ConfigError(
                f"head option guidance_spread is {self.guidance_spread}; wanted 0 or more."
            )
        if self.guidance_spread and self.guidance != "learned":
            raise ConfigError(
                f"guidance_spread is {self.guidance_spread}, but guidance is {self.guidance!r},"
                " which learns nothing. Set model.head.guidance to 'learned'."
            )


class FusionHead(nn.Module):
    """Fuses position tokens with the image's feature map into region embeddings.

    Regions attend to each other and to the whole feature map in post-norm decoder blocks, and are
    projected to CLIP's text space. Equal, weight for weight, to ``Linear`` ->
    ``torch.nn.TransformerDecoder`` -> ``LayerNorm`` -> ``Linear``, except that padding is masked:
    an image's result depends on that image alone. With `guidance`, which is not in the paper,
    cross-attention also uses the regions' boxes.

    Args:
        spec: Widths and shape of the head; the weights are initialised at random.
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
        relative_boxes_BR4: Tensor | None = None,
    ) -> Tensor:
        """Embed regions in CLIP's text space.

        Args:
            position_tokens_BRS: Position tokens, (B, R, S), any float dtype.
            feature_map_BTD: Feature maps, class token first, (B, T, D), any float dtype.
            region_mask_BR: True for a real region, (B, R) bool; None if all are real. The content
                of padding has no influence.
            relative_boxes_BR4: Boxes (x1, y1, x2, y2) relative to the image's width and height,
                (B, R, 4) float32. Required by a head with guidance; others ignore them.

        Returns:
            Region embeddings, (B, R, E), not normalised; zeros for padding.

        Raises:
            ShapeError: The shapes do not fit each other or the head, or boxes are missing.
        """
        inputs = self._prepare(
            position_tokens_BRS, feature_map_BTD, region_mask_BR, relative_boxes_BR4
        )
        if position_tokens_BRS.numel() == 0:
            # Depends on all parameters, so that each gets a gradient (zeros), as DDP requires.
            tie = torch.stack([parameter.sum() for parameter in self.parameters()]).sum()
            return tie.new_zeros(*position_tokens_BRS.shape[:2], self.spec.text_dim) + tie
        embeddings_BRE = self.projector(self.decoder(*inputs))
        if region_mask_BR is None:
            return embeddings_BRE
        return embeddings_BRE.masked_fill(~region_mask_BR[..., None], 0.0)

    def attention_maps(
        self,
        position_tokens_BRS: Tensor,
        feature_map_BTD: Tensor,
        region_mask_BR: Tensor | None = None,
        relative_boxes_BR4: Tensor | None = None,
    ) -> Tensor:
        """Return the last block's cross-attention weights; arguments as in `forward`.

        Returns:
            Mean over the attention heads, (B, R, T) float32; a row sums to 1, also for padding,
            where it has no meaning.

        Raises:
            ShapeError: The shapes do not fit each other or the head, or boxes are missing.
        """
        inputs = self._prepare(
            position_tokens_BRS, feature_map_BTD, region_mask_BR, relative_boxes_BR4
        )
        if position_tokens_BRS.numel() == 0:
            shape_BRT = (*position_tokens_BRS.shape[:2], feature_map_BTD.shape[1])
            return feature_map_BTD.new_zeros(shape_BRT, dtype=torch.float32)
        return self.decoder.attention_maps(*inputs)

    def guidance(self) -> list[Guidance]:
        """Return the guidance of each block; empty for a head without guidance."""
        return [block.guidance for block in self.decoder.blocks if block.guidance is not None]

    def _prepare(
        self,
        tokens_BRS: Tensor,
        feature_map_BTD: Tensor,
        region_mask_BR: Tensor | None,
        relative_boxes_BR4: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Check the inputs and return the arguments of the decoder."""
        self._check_shapes(tokens_BRS, feature_map_BTD, region_mask_BR)
        outside_BRT = self._outside(tokens_BRS, feature_map_BTD, relative_boxes_BR4)
        dtype = self.to_clip.weight.dtype
        tokens_BRS, memory_BTD = tokens_BRS.to(dtype), feature_map_BTD
        attend_B11R = None
        if region_mask_BR is not None:
            # NaN times a weight of zero is NaN, so the content of padding must be removed, too.
            tokens_BRS = tokens_BRS.masked_fill(~region_mask_BR[..., None], 0.0)
            # An image without regions attends to its padding: a softmax over nothing is NaN.
            attend_BR = region_mask_BR | ~region_mask_BR.any(dim=1, keepdim=True)
            attend_B11R = attend_BR[:, None, None]
        if self.spec.normalize_inputs:
            tokens_BRS = F.layer_norm(tokens_BRS, tokens_BRS.shape[-1:])
            memory_BTD = F.layer_norm(memory_BTD.to(dtype), memory_BTD.shape[-1:])
        if self.spec.position_code == "sincos":
            num_tokens, width = memory_BTD.shape[1:]
            code_TD = sincos_position_code(num_tokens, width, device=memory_BTD.device)
            memory_BTD = memory_BTD.to(dtype) + code_TD.to(dtype)
        memory_BTD = memory_BTD.to(self._matmul_dtype())
        return self.to_clip(tokens_BRS), memory_BTD, attend_B11R, outside_BRT

    def _outside(
        self, tokens_BRS: Tensor, feature_map_BTD: Tensor, relative_boxes_BR4: Tensor | None
    ) -> Tensor | None:
        """Return 1 for tokens outside boxes and 0 for those inside, (B, R, T), if guided."""
        if self.spec.guidance == "none":
            return None
        wanted = (*tokens_BRS.shape[:2], 4)
        if relative_boxes_BR4 is None or relative_boxes_BR4.shape != wanted:
            found = None if relative_boxes_BR4 is None else tuple(relative_boxes_BR4.shape)
            raise ShapeError(
                f"this head has guidance {self.spec.guidance!r} and wants the boxes of the regions,"
                f" {wanted}, relative to the image; found {found}. Pass"
                " RegionBatch.relative_boxes(), or boxes in pixels through"
                " regionspot.core.geometry.pixels_to_relative."
            )
        outside_BRT = tokens_outside(relative_boxes_BR4, feature_map_BTD.shape[1])
        return outside_BRT.to(self._matmul_dtype())

    def _matmul_dtype(self) -> torch.dtype:
        """Return the dtype of matmuls: the memory is converted once, not in every block."""
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
                f" (B, R, {self.spec.token_dim}), one token per region."
            )
        batch_size, width = tokens_BRS.shape[0], self.spec.feature_dim
        found = tuple(feature_map_BTD.shape)
        if len(found) != 3 or (found[0], found[2]) != (batch_size, width) or found[1] == 0:
            raise ShapeError(
                f"feature map has shape {found}; wanted ({batch_size}, T >= 1, {width}) with the"
                " class token first. A feature map of another CLIP needs another head."
            )
        if region_mask_BR is not None and (
            region_mask_BR.shape != tokens_BRS.shape[:2] or region_mask_BR.dtype != torch.bool
        ):
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

    @property
    def blocks(self) -> "list[DecoderBlock]":
        """The blocks, in order."""
        return cast("list[DecoderBlock]", list(self.layers))

    @override
    def forward(
        self,
        queries_BRD: Tensor,
        memory_BTD: Tensor,
        attend_B11R: Tensor | None,
        outside_BRT: Tensor | None,
    ) -> Tensor:
        """Refine queries.

        Args:
            queries_BRD: One query per region, (B, R, D).
            memory_BTD: Feature tokens, (B, T, D).
            attend_B11R: True where others may attend to a region, (B, 1, 1, R) bool; None for all.
            outside_BRT: 1 for a token outside a region's box, else 0, (B, R, T) in the memory's
                dtype; None without guidance.
        """
        for block in self.blocks:
            queries_BRD = block(queries_BRD, memory_BTD, attend_B11R, outside_BRT)
        return self.norm(queries_BRD)

    def attention_maps(
        self,
        queries_BRD: Tensor,
        memory_BTD: Tensor,
        attend_B11R: Tensor | None,
        outside_BRT: Tensor | None,
    ) -> Tensor:
        """Return the last block's cross-attention weights, mean of the heads, (B, R, T)."""
        *earlier, last = self.blocks
        for block in earlier:
            queries_BRD = block(queries_BRD, memory_BTD, attend_B11R, outside_BRT)
        queries_BRD = last.attend_regions(queries_BRD, attend_B11R)
        return last.multihead_attn.weights(queries_BRD, memory_BTD, last.bias(outside_BRT))


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
        self.guidance: Guidance | None = None
        if spec.guidance != "none":
            self.guidance = Guidance(spec.guidance, spec.num_heads, spec.guidance_spread)

    @override
    def forward(
        self,
        x_BRD: Tensor,
        memory_BTD: Tensor,
        attend_B11R: Tensor | None,
        outside_BRT: Tensor | None,
    ) -> Tensor:
        """Refine queries, (B, R, D); arguments as in `Decoder.forward`."""
        x_BRD = self.attend_regions(x_BRD, attend_B11R)
        seen_BRD = self.multihead_attn(x_BRD, memory_BTD, self.bias(outside_BRT))
        x_BRD = self.norm2(x_BRD + self.dropout(seen_BRD))
        hidden = self.dropout(F.relu(self.linear1(x_BRD)))
        return self.norm3(x_BRD + self.dropout(self.linear2(hidden)))

    def attend_regions(self, x_BRD: Tensor, attend_B11R: Tensor | None) -> Tensor:
        """Return the queries after self-attention, (B, R, D)."""
        return self.norm1(x_BRD + self.dropout(self.self_attn(x_BRD, x_BRD, attend_B11R)))

    def bias(self, outside_BRT: Tensor | None) -> Tensor | None:
        """Return the guidance's term of the cross-attention scores, (B, N, R, T), if any."""
        if self.guidance is None or outside_BRT is None:
            return None
        bias_BNRT: Tensor = self.guidance(outside_BRT)
        return bias_BNRT
