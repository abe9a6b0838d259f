"""What score rules and mask AP need to know of a region beyond its box.

All methods name the same regions, those of the cache, so this is read once and joined to the scores
of every method.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from regionspot.core.errors import CacheMismatchError
from regionspot.core.region_scores import RegionScores
from regionspot.evaluation.config import EvalConfig
from regionspot.evaluation.data import EvaluationData


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionDetails:
    """Details of the regions of every image, in the order of the cache."""

    predicted_iou: Mapping[int, NDArray[np.float32]] | None
    """SAM's predicted IoU of each region, (R,), by image id; None if no rule needs it."""

    def added_to(self, scores: RegionScores) -> RegionScores:
        """Return the scores of an image with the details of its regions."""
        if self.predicted_iou is None:
            return scores
        return replace(scores, predicted_iou=self.predicted_iou[scores.image_id])


def read_region_details(config: EvalConfig, data: EvaluationData) -> RegionDetails:
    """Read what the options need to know of the regions.

    Raises:
        CacheMismatchError: The cache does not store it.
    """
    return RegionDetails(predicted_iou=_predicted_iou(data) if config.score_rule == "tap" else None)


def _predicted_iou(data: EvaluationData) -> dict[int, NDArray[np.float32]]:
    found = {}
    for position in data.positions:
        sample = data.cache.sample(position)
        if sample.predicted_iou is None:
            where = data.cache.location
            raise CacheMismatchError(
                f"--score_rule tap needs SAM's predicted IoU of each region, which {where}, a cache"
                " of an older format, does not hold. Run cache_features.py again with the same"
                f" options, a new --output_dir and --reuse {where}, which keeps its feature maps."
            )
        found[sample.image_id] = np.array(sample.predicted_iou)
    return found
