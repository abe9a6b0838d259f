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
    guidance: GuidanceKind = "none"
    """How cross-attention prefers the patches in a region's box: 'learned' lowers the scores of
    those outside by a learned number for each attention head, 'halves' hides them from half of the
    heads; not in the paper."""
    guidance_spread: float = 0.0
    """For 'learned': the numbers of a block start evenly spaced from 0 to this one; at 0 the head
    starts as the paper's."""


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
        self._check_guidance()

    def _check_guidance(self) -> None:
        if self.guidance not in get_args(GuidanceKind):
            raise ConfigError(
                f"head option guidance is {self.guidance!r}; wanted one of"
                f" {', '.join(get_args(GuidanceKind))}."
            )
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
    """Fuse position tokens with the image's feature map into region embeddings.

    Regions attend to each other and to the whole feature map in post-norm decoder blocks, and are
    projected into CLIP's text space. Equal, weight for weight, to ``Linear`` ->
    ``torch.nn.TransformerDecoder`` -> ``LayerNorm`` -> ``Linear``, except that padding is masked:
    an image's result depends on that image alone. With `guidance`, which is not in the paper,
    cross-attention also knows the regions' boxes.

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
        relative_boxes_BR4: Tensor | None = None,
    ) -> Tensor:
        """Embed regions in CLIP's text space.

        Args:
            position_tokens_BRS: Position tokens, (B, R, S), any float dtype.
            feature_map_BTD: Feature maps, class token first, (B, T, D), any float dtype.
            region_mask_BR: True for a real region, (B, R) bool; None when all are. Whatever stands
                in the padding has no influence.
            relative_boxes_BR4: Boxes (x1, y1, x2, y2) that count the image's width and height as 1,
                (B, R, 4) float32. Only a head with guidance needs them; others ignore them.

        Returns:
            Region embeddings, (B, R, E), not normalised; zeros for padding. ``R == 0`` gives
            (B, 0, E).

        Raises:
            ShapeError: The shapes do not fit each other or the head, or boxes are missing.
        """
        self._check_shapes(position_tokens_BRS, feature_map_BTD, region_mask_BR)
        outside_BRT = self._outside(position_tokens_BRS, feature_map_BTD, relative_boxes_BR4)
        batch_size, num_regions, _ = position_tokens_BRS.shape
        if batch_size * num_regions == 0:
            # Tied to all parameters, so that each gets a gradient (zeros): DDP waits for them all.
            tie = torch.stack([parameter.sum() for parameter in self.parameters()]).sum()
            return tie.new_zeros(batch_size, num_regions, self.spec.text_dim) + tie
        queries_BRD, memory_BTD, attend_BR = self._prepare(
            position_tokens_BRS, feature_map_BTD, region_mask_BR
        )
        embeddings_BRE = self.projector(
            self.decoder(queries_BRD, memory_BTD, attend_BR, outside_BRT)
        )
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
        """Return where in the image the last block looks for each region.

        Args:
            position_tokens_BRS: Position tokens, (B, R, S).
            feature_map_BTD: Feature maps, (B, T, D).
            region_mask_BR: True for a real region, (B, R) bool; None when all are.
            relative_boxes_BR4: Boxes as in `forward`, (B, R, 4).

        Returns:
            Cross-attention weights, mean of the heads, (B, R, T) float32; a row sums to 1, also
            for padding (where it means nothing).

        Raises:
            ShapeError: The shapes do not fit each other or the head, or boxes are missing.
        """
        self._check_shapes(position_tokens_BRS, feature_map_BTD, region_mask_BR)
        outside_BRT = self._outside(position_tokens_BRS, feature_map_BTD, relative_boxes_BR4)
        batch_size, num_regions, _ = position_tokens_BRS.shape
        if batch_size * num_regions == 0:
            return feature_map_BTD.new_zeros(
                batch_size, num_regions, feature_map_BTD.shape[1], dtype=torch.float32
            )
        return self.decoder.attention_maps(
            *self._prepare(position_tokens_BRS, feature_map_BTD, region_mask_BR), outside_BRT
        )

    def guidance(self) -> list[Guidance]:
        """Return the guidance of each block, or nothing where the head has none."""
        blocks = cast("list[DecoderBlock]", list(self.decoder.layers))
        return [block.guidance for block in blocks if block.guidance is not None]

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
                f" {wanted}, relative to the image; found {found}. They are"
                " RegionBatch.relative_boxes(), or regionspot.core.geometry.pixels_to_relative"
                " of boxes in pixels."
            )
        outside_BRT = tokens_outside(relative_boxes_BR4, feature_map_BTD.shape[1])
        return outside_BRT.to(self._matmul_dtype())

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
    def forward(
        self,
        queries_BRD: Tensor,
        memory_BTD: Tensor,
        attend_BR: Tensor | None,
        outside_BRT: Tensor | None,
    ) -> Tensor:
        """Refine queries.

        Args:
            queries_BRD: One query a region, (B, R, D).
            memory_BTD: Feature tokens, (B, T, D).
            attend_BR: True where a region may be seen by others, (B, R) bool; None for everywhere.
            outside_BRT: 1 for a token outside a region's box, else 0, (B, R, T) in the memory's
                dtype; None without guidance.
        """
        for block in self.layers:
            queries_BRD = block(queries_BRD, memory_BTD, attend_BR, outside_BRT)
        return self.norm(queries_BRD)

    def attention_maps(
        self,
        queries_BRD: Tensor,
        memory_BTD: Tensor,
        attend_BR: Tensor | None,
        outside_BRT: Tensor | None,
    ) -> Tensor:
        """Return the last block's cross-attention weights, (B, R, T)."""
        for block in self.layers[:-1]:
            queries_BRD = block(queries_BRD, memory_BTD, attend_BR, outside_BRT)
        last = cast("DecoderBlock", self.layers[-1])
        return last.attention_maps(queries_BRD, memory_BTD, attend_BR, outside_BRT)


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
        attend_BR: Tensor | None,
        outside_BRT: Tensor | None,
    ) -> Tensor:
        """Refine queries, (B, R, D); arguments as in `Decoder.forward`."""
        x_BRD = self._look_at_regions(x_BRD, attend_BR)
        seen_BRD = self.multihead_attn(x_BRD, memory_BTD, self._bias(outside_BRT))
        x_BRD = self.norm2(x_BRD + self.dropout(seen_BRD))
        hidden = self.dropout(F.relu(self.linear1(x_BRD)))
        return self.norm3(x_BRD + self.dropout(self.linear2(hidden)))

    def attention_maps(
        self,
        x_BRD: Tensor,
        memory_BTD: Tensor,
        attend_BR: Tensor | None,
        outside_BRT: Tensor | None,
    ) -> Tensor:
        """Return this block's cross-attention weights, mean of the heads, (B, R, T)."""
        x_BRD = self._look_at_regions(x_BRD, attend_BR)
        return self.multihead_attn.weights(x_BRD, memory_BTD, self._bias(outside_BRT))

    def _look_at_regions(self, x_BRD: Tensor, attend_BR: Tensor | None) -> Tensor:
        attend_B11R = None if attend_BR is None else attend_BR[:, None, None]
        return self.norm1(x_BRD + self.dropout(self.self_attn(x_BRD, x_BRD, attend_B11R)))

    def _bias(self, outside_BRT: Tensor | None) -> Tensor | None:
        if self.guidance is None or outside_BRT is None:
            return None
        bias_BNRT: Tensor = self.guidance(outside_BRT)
        return bias_BNRT
