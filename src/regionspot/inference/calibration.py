"""When to trust a name: thresholds below which a region is unknown, measured on a labelled cache.

The confidence of a name is the sigmoid of the head's logit, which is what training with the focal
loss fits. Unlike a probability over the vocabulary it does not depend on the other names: it is low
for all of them if a region is nothing of the kind.

Shape letters: R regions, C names, E text width.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regionspot.cache import FeatureCache
from regionspot.core.errors import ConfigError
from regionspot.core.geometry import FloatArray
from regionspot.core.vocabulary import Vocabulary
from regionspot.inference.prototypes import embed_labelled, unit_rows
from regionspot.inference.text_banks import ChosenNames
from regionspot.model import TrainedHead

_MIN_REGIONS = 20
"""Regions given a name, below which its own threshold would be chance."""
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class CosineLevels:
    """Mean cosines of a region with texts of names, and with other regions.

    Two regions are much closer to each other than a region to a text, even to that of its name. So
    examples beside words would win nearly always, unless their cosines are moved to the texts'
    level. The levels depend on the head and hardly on the names.
    """

    text_right: float
    """With the text of its own name."""
    text_wrong: float
    """With the texts of other names."""
    region_right: float
    """With regions of the same name."""
    region_wrong: float
    """With regions of other names."""

    def as_text(self, products_RC: Tensor) -> Tensor:
        """Move products of unit embeddings with means of examples, (R, C), to the texts' level.

        Before their scaling to unit norm, means of any number of examples have the same level.
        """
        spread = (self.text_right - self.text_wrong) / (self.region_right - self.region_wrong)
        return (products_RC - self.region_wrong) * spread + self.text_wrong


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What `RegionSpot.calibrate` measures; ``Calibration(threshold=0.4)`` sets one by hand."""

    threshold: float = 0.5
    """Confidence below which a region is unknown, 0 to 1; infinite if no threshold is precise
    enough."""
    thresholds: Mapping[str, float] = field(default_factory=dict)
    """Those of names with enough regions; the others have the one above."""
    levels: CosineLevels | None = None
    """Needed for examples beside words, or with unknown regions."""

    def of_names(self, vocabulary: Vocabulary) -> NDArray[np.float64]:
        """Return the threshold of every name, (C,)."""
        return np.array([self.thresholds.get(name, self.threshold) for name in vocabulary])


def calibrate_on_cache(
    trained_head: TrainedHead,
    cache: FeatureCache,
    words: ChosenNames,
    *,
    templates: str,
    target_precision: float,
    max_images: int,
    device: torch.device,
) -> Calibration:
    """Measure thresholds of words, and levels on the cache's own; see `RegionSpot.calibrate`."""
    if not 0 < target_precision <= 1:
        raise ConfigError(f"target_precision is {target_precision}; wanted above 0 and up to 1.")
    labelled, bank_CE = cache.manifest.vocabulary, cache.text_bank(templates)
    num_images = min(len(cache), max_images)
    positions = np.linspace(0, len(cache) - 1, num_images).round().astype(np.int64)
    z_RE, labels_R = embed_labelled(trained_head, cache, positions, device=device)
    logits_RC = trained_head.classifier(torch.from_numpy(z_RE).to(device), words.bank_CE)
    threshold, thresholds = measure_thresholds(
        logits_RC.cpu(),
        [labelled[label] for label in labels_R.tolist()],
        words.vocabulary,
        target_precision=target_precision,
    )
    levels = measure_levels(unit_rows(z_RE), labels_R, bank_CE)
    return Calibration(threshold=threshold, thresholds=thresholds, levels=levels)


def measure_levels(
    unit_RE: FloatArray, labels_R: NDArray[np.int64], bank_CE: FloatArray
) -> CosineLevels:
    """Measure mean cosines on labelled regions, in memory that grows with the names only.

    Args:
        unit_RE: Region embeddings of unit norm, (R, E).
        labels_R: Their labels, (R,), rows of the bank.
        bank_CE: Unit-norm embeddings of the names, (C, E).

    Raises:
        ConfigError: There are too few regions: two of one name and one of another are needed; or
            regions of a name are no closer to each other than to others.
    """
    num_names = len(bank_CE)
    counts_C = np.bincount(labels_R, minlength=num_names).astype(np.float64)
    sums_CE = np.zeros((num_names, unit_RE.shape[1]))
    np.add.at(sums_CE, labels_R, unit_RE)
    same_C, same_pairs_C = (sums_CE**2).sum(axis=1) - counts_C, counts_C * (counts_C - 1)
    other = (sums_CE.sum(axis=0) ** 2).sum() - (sums_CE**2).sum()
    other_pairs = counts_C.sum() ** 2 - (counts_C**2).sum()
    several = same_pairs_C > 0
    if not several.any() or other_pairs == 0:
        raise ConfigError(
            f"the cache has {len(labels_R)} regions of {int((counts_C > 0).sum())} names; wanted"
            " two or more of one name and one of another to calibrate."
        )
    right = float((unit_RE * bank_CE[labels_R]).sum(axis=1).mean())
    all_texts = float(sums_CE.sum(axis=0) @ bank_CE.sum(axis=0)) / len(labels_R)
    levels = CosineLevels(
        text_right=right,
        text_wrong=(all_texts - right) / (num_names - 1),
        region_right=float((same_C[several] / same_pairs_C[several]).mean()),
        region_wrong=float(other / other_pairs),
    )
    if levels.region_right <= levels.region_wrong or levels.text_right <= levels.text_wrong:
        raise ConfigError(
            f"this head does not tell the names of the cache apart ({levels}): use a trained head,"
            " and a cache of the kind that it was trained on."
        )
    return levels


def measure_thresholds(
    logits_RC: Tensor,
    true_names: Sequence[str],
    vocabulary: Vocabulary,
    *,
    target_precision: float,
) -> tuple[float, dict[str, float]]:
    """Find the lowest thresholds above which the given names are right often enough.

    Args:
        logits_RC: The head's logits, (R, C).
        true_names: The name of each region, which may not be in the vocabulary.
        vocabulary: The names.
        target_precision: Share of right names among those given, above 0 and up to 1.

    Returns:
        One threshold for all names together, and those of names given to enough regions. They are
        infinite where no threshold is precise enough.
    """
    best_R = logits_RC.argmax(dim=1).numpy()
    confidences_R = confidence(logits_RC.max(dim=1).values)
    is_right_R = np.array(
        [vocabulary[best] == true for best, true in zip(best_R, true_names, strict=True)]
    )
    overall = lowest_threshold(confidences_R, is_right_R, target_precision)
    if math.isinf(overall):
        _logger.warning(
            "no threshold gives a precision of %g: all regions will be unknown, except where a name"
            " has a threshold of its own.",
            target_precision,
        )
    by_name = {}
    for index, name in enumerate(vocabulary):
        own = best_R == index
        if own.sum() >= _MIN_REGIONS:
            by_name[name] = lowest_threshold(confidences_R[own], is_right_R[own], target_precision)
    return overall, by_name


def confidence(logits: Tensor) -> FloatArray:
    """Return the sigmoid of logits of any shape, in float32 on the CPU."""
    sigmoid: FloatArray = torch.sigmoid(logits.float()).cpu().numpy()
    return sigmoid


def lowest_threshold(
    confidences_R: FloatArray, is_right_R: NDArray[np.bool_], target_precision: float
) -> float:
    """Return the lowest confidence such that names at or above it reach the precision."""
    order = np.argsort(-confidences_R, kind="stable")
    sorted_R = confidences_R[order]
    precision_R = np.cumsum(is_right_R[order]) / np.arange(1, len(order) + 1)
    ends_tie_R = np.append(sorted_R[1:] < sorted_R[:-1], True)
    reached = np.flatnonzero((precision_R >= target_precision) & ends_tie_R)
    return float(sorted_R[reached[-1]]) if len(reached) else math.inf
