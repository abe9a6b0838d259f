"""The fusion head: the only trained part of RegionSpot (arXiv 2311.01373, section 3.2).

Shapes: `B` images, `R` regions (padded), `T` feature tokens; widths: `S` SAM, `D` CLIP, `E` text.
"""

from collections.abc import Iterable
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from regionspot.core.errors import ShapeError
from regionspot.core.geometry import FloatArray, pixels_to_relative
from regionspot.core.patch_grid import patches_in_masks, square_grid_hw
from regionspot.model.attention import Attention
from regionspot.model.guidance import Guidance, tokens_outside
from regionspot.model.head_spec import HeadSpec
from regionspot.model.position_code import sincos_position_code


class FusionHead(nn.Module):
    """Fuses position tokens with the image's feature map into region embeddings.

    Regions attend to each other and to the whole feature map in post-norm decoder blocks, and are
    projected to CLIP's text space. Equal, weight for weight, to ``Linear`` ->
    ``torch.nn.TransformerDecoder`` -> ``LayerNorm`` -> ``Linear``, except that padding is masked:
    an image's result depends on that image alone. With `guidance`, which is not in the paper,
    cross-attention also uses the regions' boxes or masks.

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
        extents: Tensor | None = None,
    ) -> Tensor:
        """Embed regions in CLIP's text space.

        Args:
            position_tokens_BRS: Position tokens, (B, R, S), any float dtype.
            feature_map_BTD: Feature maps, class token first, (B, T, D), any float dtype.
            region_mask_BR: True for a real region, (B, R) bool; None if all are real. The content
                of padding has no influence.
            extents: Where the regions are, as `extents` gives it: boxes (x1, y1, x2, y2) relative
                to the image's width and height, (B, R, 4) float32, or with ``guidance_region``
                "mask" the P patches in each mask, (B, R, P) bool. Required by a head with
                guidance; others ignore it.

        Returns:
            Region embeddings, (B, R, E), not normalised; zeros for padding.

        Raises:
            ShapeError: The shapes do not fit each other or the head, or extents are missing.
        """
        inputs = self._prepare(position_tokens_BRS, feature_map_BTD, region_mask_BR, extents)
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
        extents: Tensor | None = None,
    ) -> Tensor:
        """Return the last block's cross-attention weights; arguments as in `forward`.

        Returns:
            Mean over the attention heads, (B, R, T) float32; a row sums to 1, also for padding,
            where it has no meaning. 0 for tokens that ``feature_tokens`` leaves out; with 'none',
            all tokens are equal.

        Raises:
            ShapeError: The shapes do not fit each other or the head, or extents are missing.
        """
        inputs = self._prepare(position_tokens_BRS, feature_map_BTD, region_mask_BR, extents)
        if position_tokens_BRS.numel() == 0:
            shape_BRT = (*position_tokens_BRS.shape[:2], feature_map_BTD.shape[1])
            return feature_map_BTD.new_zeros(shape_BRT, dtype=torch.float32)
        maps_BRT = self.decoder.attention_maps(*inputs)
        return F.pad(maps_BRT, (feature_map_BTD.shape[1] - maps_BRT.shape[2], 0))

    def extents(
        self,
        boxes_xyxy: FloatArray,
        size_hw: tuple[int, int],
        masks: Iterable[NDArray[np.bool_]] | None = None,
        *,
        num_tokens: int,
    ) -> Tensor:
        """Return where the regions of one image are, in the form that `forward` wants, on the CPU.

        Args:
            boxes_xyxy: Boxes, (R, 4), pixels of the original image.
            size_hw: Height and width of the original image in pixels.
            masks: Mask of each region, (H, W) each; used by heads with ``guidance_region`` "mask".
            num_tokens: Tokens of the feature map (T).

        Returns:
            Boxes relative to the image, (R, 4) float32, or the patches in each mask, (R, T - 1)
            bool.

        Raises:
            ShapeError: The head wants masks, and there are none.
        """
        boxes_R4 = torch.from_numpy(pixels_to_relative(boxes_xyxy, size_hw))
        if not self.spec.needs_masks:
            return boxes_R4
        if masks is None:
            raise ShapeError("this head is guided by masks (guidance_region 'mask'); found none.")
        return patches_in_masks(masks, boxes_R4, grid_hw=square_grid_hw(num_tokens - 1))

    def guidance(self) -> list[Guidance]:
        """Return the guidance of each block; empty for a head without guidance."""
        return [block.guidance for block in self.decoder.blocks if block.guidance is not None]

    def _prepare(
        self,
        tokens_BRS: Tensor,
        feature_map_BTD: Tensor,
        region_mask_BR: Tensor | None,
        extents: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Check the inputs and return the arguments of the decoder."""
        self._check_shapes(tokens_BRS, feature_map_BTD, region_mask_BR)
        outside_BRT = self._outside(tokens_BRS, feature_map_BTD, extents)
        dtype = self.to_clip.weight.dtype
        tokens_BRS, memory_BTD = tokens_BRS.to(dtype), feature_map_BTD
        if region_mask_BR is not None:
            # NaN times a weight of zero is NaN, so the content of padding must be removed, too.
            tokens_BRS = tokens_BRS.masked_fill(~region_mask_BR[..., None], 0.0)
        attend = self._attend(tokens_BRS, region_mask_BR)
        if self.spec.normalize_inputs:
            tokens_BRS = F.layer_norm(tokens_BRS, tokens_BRS.shape[-1:])
            memory_BTD = F.layer_norm(memory_BTD.to(dtype), memory_BTD.shape[-1:])
        if self.spec.position_code == "sincos":
            num_tokens, width = memory_BTD.shape[1:]
            code_TD = sincos_position_code(num_tokens, width, device=memory_BTD.device)
            memory_BTD = memory_BTD.to(dtype) + code_TD.to(dtype)
        memory_BTD = memory_BTD.to(self._matmul_dtype())
        if self.spec.feature_tokens == "none":
            # All keys are equal, and all values are the projection's bias: cross-attention adds
            # the same to every region of every image.
            memory_BTD = torch.zeros_like(memory_BTD)
        elif self.spec.feature_tokens == "patches":
            memory_BTD = memory_BTD[:, 1:]
            outside_BRT = None if outside_BRT is None else outside_BRT[..., 1:]
        return self.to_clip(tokens_BRS), memory_BTD, attend, outside_BRT

    def _attend(self, tokens_BRS: Tensor, region_mask_BR: Tensor | None) -> Tensor | None:
        """Return where regions may attend to others, (B or 1, 1, R or 1, R) bool; None for all."""
        if self.spec.regions == "alone":
            num_regions = tokens_BRS.shape[1]
            return torch.eye(num_regions, dtype=torch.bool, device=tokens_BRS.device)[None, None]
        if region_mask_BR is None:
            return None
        # An image without regions attends to its padding: a softmax over nothing is NaN.
        attend_BR = region_mask_BR | ~region_mask_BR.any(dim=1, keepdim=True)
        return attend_BR[:, None, None]

    def _outside(
        self, tokens_BRS: Tensor, feature_map_BTD: Tensor, extents: Tensor | None
    ) -> Tensor | None:
        """Return 1 for tokens outside regions and 0 for those inside, (B, R, T), if guided."""
        if self.spec.guidance == "none":
            return None
        num_tokens = feature_map_BTD.shape[1]
        of_masks = self.spec.needs_masks
        wanted = (*tokens_BRS.shape[:2], num_tokens - 1 if of_masks else 4)
        fits = extents is not None and (extents.dtype == torch.bool) == of_masks
        if extents is None or not fits or extents.shape != wanted:
            what = "bool, the patches in masks" if of_masks else "float, relative boxes"
            found = None if extents is None else f"{tuple(extents.shape)} {extents.dtype}"
            raise ShapeError(
                f"this head has guidance {self.spec.guidance!r} and wants the extents of the"
                f" regions, {wanted} {what}; found {found}. Pass those of RegionBatch.extents(), or"
                " of FusionHead.extents() for boxes in pixels."
            )
        outside_BRT = tokens_outside(extents, num_tokens)
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
        if self.spec.feature_tokens == "patches" and found[1] == 1:
            raise ShapeError(
                "the feature map has one token, the class token, but this head attends to patches"
                " only (feature_tokens 'patches')."
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
        attend: Tensor | None,
        outside_BRT: Tensor | None,
    ) -> Tensor:
        """Refine queries.

        Args:
            queries_BRD: One query per region, (B, R, D).
            memory_BTD: Feature tokens, (B, T, D).
            attend: Where regions may attend to others, bool, broadcastable to (B, 1, R, R);
                None for everywhere.
            outside_BRT: 1 for a token outside a region, else 0, (B, R, T) in the memory's dtype;
                None without guidance.
        """
        for block in self.blocks:
            queries_BRD = block(queries_BRD, memory_BTD, attend, outside_BRT)
        return self.norm(queries_BRD)

    def attention_maps(
        self,
        queries_BRD: Tensor,
        memory_BTD: Tensor,
        attend: Tensor | None,
        outside_BRT: Tensor | None,
    ) -> Tensor:
        """Return the last block's cross-attention weights, mean of the heads, (B, R, T)."""
        *earlier, last = self.blocks
        for block in earlier:
            queries_BRD = block(queries_BRD, memory_BTD, attend, outside_BRT)
        queries_BRD = last.attend_regions(queries_BRD, attend)
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
        attend: Tensor | None,
        outside_BRT: Tensor | None,
    ) -> Tensor:
        """Refine queries, (B, R, D); arguments as in `Decoder.forward`."""
        x_BRD = self.attend_regions(x_BRD, attend)
        seen_BRD = self.multihead_attn(x_BRD, memory_BTD, self.bias(outside_BRT))
        x_BRD = self.norm2(x_BRD + self.dropout(seen_BRD))
        hidden = self.dropout(F.relu(self.linear1(x_BRD)))
        return self.norm3(x_BRD + self.dropout(self.linear2(hidden)))

    def attend_regions(self, x_BRD: Tensor, attend: Tensor | None) -> Tensor:
        """Return the queries after self-attention, (B, R, D)."""
        return self.norm1(x_BRD + self.dropout(self.self_attn(x_BRD, x_BRD, attend)))

    def bias(self, outside_BRT: Tensor | None) -> Tensor | None:
        """Return the guidance's term of the cross-attention scores, (B, N, R, T), if any."""
        if self.guidance is None or outside_BRT is None:
            return None
        bias_BNRT: Tensor = self.guidance(outside_BRT)
        return bias_BNRT
