"""The focal loss straight from region embeddings, for vocabularies of many thousands of classes.

All (region, class) pairs of a batch but one per region are wrong, and the loss of a wrong pair is a
function of its logit alone. So the wrong pairs are processed in tiles: one function computes loss
and derivative together, and multiplies the derivatives into the gradient of the embeddings. Nothing
of shape (N, C) is ever held, neither logits nor targets. The N right pairs use ordinary autograd.

Shapes: `B` images, `R` regions (padded), `E` text width, `C` classes, `N` regions that count.
"""

from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from regionspot.core.errors import ConfigError
from regionspot.model.classifier import RegionClassifier, check_widths, lengths
from regionspot.model.loss import CountedRegions, Normalization


def region_focal_loss(  # noqa: PLR0913 - the loss's options, keyword-only
    z_BRE: Tensor,
    text_bank_CE: Tensor,
    labels_BR: Tensor,
    region_mask_BR: Tensor | None = None,
    *,
    classifier: RegionClassifier,
    alpha: float = 0.25,
    gamma: float = 2.0,
    normalization: Normalization = "paper",
    num_regions: int | None = None,
    num_counted: int | None = None,
) -> Tensor:
    """Return ``sigmoid_focal_loss(classifier(z, text_bank), labels, region_mask)``, in less memory.

    It takes hardly longer than its two matrix products, and its memory does not grow with the
    vocabulary. Gradients reach the embeddings and whatever of the classifier is trained. Under
    bfloat16 autocast the products with the text bank run in bfloat16, everything else in float32;
    under float16 autocast all of it runs in float32, since the gradient is found here, where a
    GradScaler has not yet scaled it.

    Args:
        z_BRE: Region embeddings, (B, R, E), not normalised; half precision is converted.
        text_bank_CE: Class embeddings of unit norm, (C, E), without a gradient.
        labels_BR: Class indices from 0, (B, R) int64; -1 marks a region that does not count.
        region_mask_BR: True for a real region, (B, R) bool; None leaves it to the labels.
        classifier: Scale and bias of the logits.
        alpha: Weight of the right class; the others weigh ``1 - alpha``.
        gamma: How strongly easy decisions are discounted, 0 or more.
        normalization: As in `sigmoid_focal_loss`.
        num_regions: As in `sigmoid_focal_loss`.
        num_counted: How many regions of the batch count, where that is known. A GPU then computes
            the loss without being waited for; that the labels are below ``C`` is not checked there.

    Returns:
        A scalar, float32 (float64 for such embeddings); 0 with zero gradients when no region
        counts. It can be differentiated once.

    Raises:
        ShapeError: The shapes do not fit, a label is not below ``C``, or ``num_counted`` is wrong.
        ConfigError: ``normalization`` is unknown, or the text bank wants a gradient. In the
            backward pass: a gradient of the gradient is asked for.
    """
    check_widths(z_BRE, text_bank_CE)
    if text_bank_CE.requires_grad:
        raise ConfigError(
            "region_focal_loss takes the text bank as frozen, found one that wants a gradient. Use"
            " sigmoid_focal_loss(classifier(z, text_bank), labels, region_mask)."
        )
    counted = CountedRegions(z_BRE, labels_BR, region_mask_BR, num_counted)
    counted.check_labels(len(text_bank_CE))
    labels_N = counted.labels_N
    matmul_dtype = _matmul_dtype(z_BRE)
    with torch.autocast(device_type=z_BRE.device.type, enabled=False):
        z_NE = counted.rows(z_BRE)
        z_NE = z_NE.to(torch.promote_types(z_NE.dtype, torch.float32))
        scaled_NE = z_NE * (classifier.scale / lengths(z_NE))
        right_N = (scaled_NE * text_bank_CE[labels_N]).sum(dim=-1) + classifier.bias
        right_N = (-right_N).sigmoid() ** gamma * F.softplus(-right_N)
        wrong_N: Tensor = _WrongClasses.apply(
            scaled_NE, classifier.bias, text_bank_CE, labels_N, gamma, matmul_dtype
        )
        losses_N = alpha * right_N + (1 - alpha) * wrong_N
        return counted.average(losses_N, normalization, num_regions)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tile:
    """How many (region, class) pairs are worked on together."""

    regions: int
    """Regions of one product with the text bank."""
    classes: int
    """Classes of one product."""
    regions_at_once: int
    """Of these, regions that go through the elementwise passes together."""


# On a CPU, the passes over 64 x 2048 numbers stay within its second-level cache; elsewhere few
# large kernels are better, as far as 100 MB go.
_CPU_TILE = _Tile(regions=256, classes=2048, regions_at_once=64)
_DEVICE_TILE = _Tile(regions=512, classes=16384, regions_at_once=512)


class _WrongClasses(torch.autograd.Function):
    """Sum ``sigmoid(x) ** gamma * softplus(x)`` over all classes but the right one."""

    @staticmethod
    @override
    def forward(
        ctx: Any,
        scaled_NE: Tensor,
        bias: Tensor,
        bank_CE: Tensor,
        labels_N: Tensor,
        gamma: float,
        matmul_dtype: torch.dtype,
    ) -> Tensor:
        tile = _CPU_TILE if scaled_NE.device.type == "cpu" else _DEVICE_TILE
        bias = bias.to(scaled_NE.dtype)
        sums = _Sums(
            losses=scaled_NE.new_zeros(len(scaled_NE)),
            slopes=torch.zeros_like(scaled_NE),
            bias_slopes=scaled_NE.new_zeros(len(scaled_NE)) if ctx.needs_input_grad[1] else None,
        )
        # Once: to allocate it for every product would cost as many page faults as there are pages.
        logits = scaled_NE.new_empty(
            min(tile.regions, len(scaled_NE)) * min(tile.classes, len(bank_CE))
        )
        for start in range(0, len(scaled_NE), tile.regions):
            rows = slice(start, start + tile.regions)
            factor_NE = scaled_NE[rows].to(matmul_dtype)
            _add_wrong_classes(
                factor_NE, bias, bank_CE, labels_N[rows], gamma, tile, sums.rows(rows), logits
            )
        ctx.save_for_backward(sums.slopes, sums.bias_slopes)
        return sums.losses

    @staticmethod
    @override
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad_N,) = grads
        if torch.is_grad_enabled():  # by create_graph=True
            raise ConfigError(
                "region_focal_loss can be differentiated once only, and a gradient of its gradient"
                " was asked for (create_graph=True). Use sigmoid_focal_loss(classifier(z,"
                " text_bank), labels, region_mask), which holds all logits."
            )
        slopes_NE, bias_slopes_N = ctx.saved_tensors
        of_bias = None if bias_slopes_N is None else torch.dot(grad_N, bias_slopes_N)
        return slopes_NE * grad_N[:, None], of_bias, None, None, None, None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sums:
    """Sums over the wrong classes of each region."""

    losses: Tensor
    """(N,)."""
    slopes: Tensor
    """Derivatives by the scaled embeddings, (N, E)."""
    bias_slopes: Tensor | None
    """Derivatives by the bias, (N,); None where nobody wants them."""

    def rows(self, rows: slice) -> Self:
        """Return the sums of a few regions, sharing memory."""
        return replace(
            self,
            losses=self.losses[rows],
            slopes=self.slopes[rows],
            bias_slopes=None if self.bias_slopes is None else self.bias_slopes[rows],
        )


def _add_wrong_classes(
    factor_NE: Tensor,
    bias: Tensor,
    bank_CE: Tensor,
    labels_N: Tensor,
    gamma: float,
    tile: _Tile,
    sums: _Sums,
    logits: Tensor,
) -> None:
    """Add up over tiles of classes what a few regions' wrong classes cost.

    ``logits`` is room for those of a tile.
    """
    for start in range(0, len(bank_CE), tile.classes):
        part_CE = bank_CE[start : start + tile.classes].to(factor_NE.dtype)
        x_NC = logits[: len(factor_NE) * len(part_CE)].view(len(factor_NE), len(part_CE))
        if part_CE.dtype == x_NC.dtype:
            torch.mm(factor_NE, part_CE.T, out=x_NC)
        else:
            x_NC.copy_(factor_NE @ part_CE.T)
        _leave_out_(x_NC, labels_N - start)
        for x_rows, losses in zip(
            x_NC.split(tile.regions_at_once), sums.losses.split(tile.regions_at_once), strict=True
        ):
            x_rows.add_(bias)  # here, where it is at hand: addmm would write it to all of x first
            losses.add_(_focal_and_slope_(x_rows, gamma))
        if sums.bias_slopes is not None:
            sums.bias_slopes.add_(x_NC.sum(dim=1))
        if part_CE.dtype == x_NC.dtype:
            sums.slopes.addmm_(x_NC, part_CE)
        else:
            sums.slopes.add_(x_NC.to(part_CE.dtype) @ part_CE)


def _leave_out_(x_NC: Tensor, column_N: Tensor) -> None:
    """Make one logit of a row minus infinite, where its column is among those of the tile."""
    is_here_N1 = ((column_N >= 0) & (column_N < x_NC.shape[1]))[:, None]
    column_N1 = column_N.clamp(0, x_NC.shape[1] - 1)[:, None]
    # Not by a list of the rows it concerns: a GPU would have to be asked how many they are.
    x_NC.scatter_(1, column_N1, x_NC.gather(1, column_N1).masked_fill_(is_here_N1, -torch.inf))


def _focal_and_slope_(x_NC: Tensor, gamma: float) -> Tensor:
    """Return row sums of ``p ** gamma * s`` (N,) and turn ``x`` into that term's derivative.

    ``p`` is ``sigmoid(x)``, ``s`` is ``softplus(x) = x - log(p)``, which is found much faster like
    this than by itself. The derivative is ``p ** gamma * (p + gamma * (1 - p) * s)``.
    """
    # Below, the results would be denormal numbers, on which a CPU takes twenty times as long. What
    # is left there, exp(-80), is nothing.
    x_NC.clamp_(min=-80 / (gamma + 1))
    p_NC = x_NC.sigmoid()
    softplus_NC = p_NC.log()
    torch.sub(x_NC, softplus_NC, out=softplus_NC)
    weights_NC = torch.pow(p_NC, gamma, out=x_NC)
    focal_NC = softplus_NC.mul_(weights_NC)
    losses_N = focal_NC.sum(dim=1)
    torch.lerp(focal_NC.mul_(gamma), weights_NC, p_NC, out=x_NC)
    return losses_N


def _matmul_dtype(z_BRE: Tensor) -> torch.dtype:
    device_type = z_BRE.device.type
    if torch.is_autocast_enabled(device_type):
        dtype = torch.get_autocast_dtype(device_type)
        if dtype == torch.bfloat16:
            return dtype
    return torch.promote_types(z_BRE.dtype, torch.float32)
