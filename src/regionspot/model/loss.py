"""The training loss: sigmoid focal loss over regions and classes, unaffected by padding.

Shapes: `B` images, `R` regions (padded), `C` classes.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from regionspot.core import devices
from regionspot.core.errors import ConfigError, ShapeError

Normalization = Literal["paper", "regions"]


def sigmoid_focal_loss(
    logits_BRC: Tensor,
    labels_BR: Tensor,
    region_mask_BR: Tensor | None = None,
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
    normalization: Normalization = "paper",
    num_regions: int | None = None,
) -> Tensor:
    """Return the focal loss (Lin et al., 2017) of one-hot labels, summed over classes.

    The paper divides the sum over images, regions and classes by the number of regions per image,
    after padding the batch to equal numbers. Here each image is divided by its own number of
    regions: the same value for a batch without padding, and independent of other images.

    Args:
        logits_BRC: Logits, (B, R, C); converted to float32.
        labels_BR: Class indices from 0, (B, R) int64; -1 for a region that does not count.
        region_mask_BR: True for a real region, (B, R) bool; None if the labels say so.
        alpha: Weight of the right class; the others have ``1 - alpha``.
        gamma: Exponent that reduces the weight of easy decisions.
        normalization: ``paper``: the sum over images of each image's mean over its regions.
            ``regions``: the mean over all regions of the batch.
        num_regions: Divisor of ``regions``; None for the number of regions of this batch. For a
            part of a batch, pass the number of the whole: losses of parts then add up to that of
            the whole, as they always do for ``paper``.

    Returns:
        A scalar, float32; 0 (with zero gradients) when no region counts.

    Raises:
        ShapeError: The shapes differ, or a label is not below ``C``.
        ConfigError: ``normalization`` is unknown.
    """
    counted = CountedRegions(logits_BRC, labels_BR, region_mask_BR)
    counted.check_labels(logits_BRC.shape[-1])
    logits_NC = counted.rows(logits_BRC).float()
    losses_N = _focal_terms(logits_NC, counted.labels_N, alpha=alpha, gamma=gamma).sum(dim=-1)
    return counted.average(losses_N, normalization, num_regions)


class CountedRegions:
    """The `N` regions of a batch that count for a loss.

    Args:
        values_BRX: Values of every region, (B, R, ...); only the shape is used.
        labels_BR: Class indices from 0, (B, R) int64; -1 for a region that does not count.
        region_mask_BR: True for a real region, (B, R) bool; None if the labels say so.
        num_counted: N if known. It avoids a synchronisation with a GPU, where neither it nor the
            labels are then checked.

    Raises:
        ShapeError: The shapes differ, or another number of regions counts.
    """

    def __init__(
        self,
        values_BRX: Tensor,
        labels_BR: Tensor,
        region_mask_BR: Tensor | None,
        num_counted: int | None = None,
    ) -> None:
        counts_BR = _counting_regions(values_BRX, labels_BR, region_mask_BR)
        is_counted = counts_BR.flatten()
        self._may_sync = num_counted is None or not devices.would_sync(is_counted)
        # One index, not two, as its gradient is a sum of rows, which is much faster.
        if self._may_sync:
            self._row_N = is_counted.nonzero()[:, 0]
        else:
            self._row_N = _first_true(is_counted)[:num_counted]
        if num_counted not in (None, len(self._row_N)):
            raise ShapeError(
                f"{len(self._row_N)} regions count, by their labels and the mask; num_counted is"
                f" {num_counted}."
            )
        self._image_N = self._row_N // max(counts_BR.shape[1], 1)
        self._regions_per_image_B = counts_BR.sum(dim=1)
        self.labels_N = self.rows(labels_BR)

    def rows(self, values_BRX: Tensor) -> Tensor:
        """Return the rows of the regions that count, (N, ...)."""
        return values_BRX.flatten(0, 1).index_select(0, self._row_N)

    def check_labels(self, num_classes: int) -> None:
        """Raise `ShapeError` for a label not below ``num_classes``, unless that would sync."""
        if not self._may_sync or len(self.labels_N) == 0:
            return
        largest = int(self.labels_N.max())
        if largest >= num_classes:
            raise ShapeError(
                f"label {largest} is outside the {num_classes} classes of the text bank: the labels"
                " belong to another vocabulary."
            )

    def average(
        self, losses_N: Tensor, normalization: Normalization, num_regions: int | None
    ) -> Tensor:
        """Return the loss of the batch from one per region, (N,); see `sigmoid_focal_loss`."""
        if normalization == "regions":
            return losses_N.sum() / max(len(losses_N) if num_regions is None else num_regions, 1)
        if normalization == "paper":
            return (losses_N / self._regions_per_image_B[self._image_N]).sum()
        raise ConfigError(f"loss normalization is {normalization!r}; wanted 'paper' or 'regions'.")


def _focal_terms(logits_NC: Tensor, labels_N: Tensor, *, alpha: float, gamma: float) -> Tensor:
    """Return the loss of every (region, class) pair, (N, C)."""
    targets_NC = torch.zeros_like(logits_NC).scatter_(1, labels_N[:, None], 1.0)
    probabilities = logits_NC.sigmoid()
    missed = probabilities + targets_NC - 2 * probabilities * targets_NC  # 1 - p of the truth
    weights = (1 - alpha) + (2 * alpha - 1) * targets_NC
    entropies = F.binary_cross_entropy_with_logits(logits_NC, targets_NC, reduction="none")
    return weights * missed**gamma * entropies


def _first_true(is_counted_N: Tensor) -> Tensor:
    """Return all positions, the true ones first; ``nonzero`` would synchronise with a GPU."""
    return is_counted_N.int().argsort(descending=True, stable=True)


def _counting_regions(
    values_BRX: Tensor, labels_BR: Tensor, region_mask_BR: Tensor | None
) -> Tensor:
    if values_BRX.ndim != 3 or labels_BR.shape != values_BRX.shape[:2]:
        raise ShapeError(
            f"logits or embeddings {tuple(values_BRX.shape)} and labels {tuple(labels_BR.shape)}:"
            " wanted (B, R, C or E) and (B, R)."
        )
    counts_BR = labels_BR >= 0
    if region_mask_BR is None:
        return counts_BR
    if region_mask_BR.shape != labels_BR.shape:
        raise ShapeError(
            f"region mask {tuple(region_mask_BR.shape)} and labels {tuple(labels_BR.shape)} must"
            " have one shape, (B, R)."
        )
    return counts_BR & region_mask_BR
