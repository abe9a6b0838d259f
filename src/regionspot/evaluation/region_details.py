"""What score rules and mask AP need to know of a region beyond its box.

All methods name the same regions, those of the cache, so this is read once and joined to the scores
of every method.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from regionspot.backbones import FrozenModels
from regionspot.cache import check_masks
from regionspot.core.errors import CacheMismatchError, ConfigError
from regionspot.core.region_scores import RegionScores
from regionspot.core.rle_masks import RleMasks
from regionspot.core.stopping import check_stop, safe_points
from regionspot.evaluation.config import EvalConfig
from regionspot.evaluation.data import EvaluationData
from regionspot.evaluation.from_pixels import prompted_images
from regionspot.inference import sam_masks


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionDetails:
    """Details of the regions of every image by image id, in the order of the cache."""

    predicted_iou: Mapping[int, NDArray[np.float32]] | None
    """SAM's predicted IoU of each region, (R,); None if the score rule does not need it."""
    masks: Mapping[int, RleMasks] | None
    """SAM's mask of each region, R in all; None if boxes are compared."""

    def added_to(self, scores: RegionScores) -> RegionScores:
        """Return the scores of an image with the details of its regions."""
        if self.predicted_iou is not None:
            scores = replace(scores, predicted_iou=self.predicted_iou[scores.image_id])
        if self.masks is not None:
            scores = replace(scores, masks=self.masks[scores.image_id])
        return scores


def read_region_details(
    config: EvalConfig, data: EvaluationData, models: FrozenModels | None
) -> RegionDetails:
    """Read what the options need to know of the regions, or compute it from pixels.

    Args:
        config: The options of the evaluation.
        data: The images and their annotations.
        models: The frozen models if `masks_from_pixels`, else None.

    Raises:
        CacheMismatchError: The cache does not store the predicted IoU.
        CacheCorruptError: A mask of the cache is damaged.
        MissingFileError: An image is not there.
    """
    has_regions = bool(config.checkpoints or config.methods)
    return RegionDetails(
        predicted_iou=_predicted_iou(data) if has_regions and config.score_rule == "tap" else None,
        masks=_masks(data, models) if has_regions and config.iou_type == "segm" else None,
    )


def masks_from_pixels(config: EvalConfig, data: EvaluationData) -> bool:
    """Return whether the masks of the regions are needed, and are not in the cache.

    Raises:
        ConfigError: They are, but images or models to compute them are not given.
    """
    has_regions = config.checkpoints or config.methods
    if config.iou_type == "bbox" or not has_regions or data.cache.has_masks:
        return False
    if config.images_dir is None or config.models is None:
        where = data.cache.location
        raise ConfigError(
            f"--iou_type segm needs a mask of each region, and {where} holds none. Run"
            f" cache_features.py again with --masks true, a new --output_dir and --reuse {where};"
            " or set --images_dir and --models.preset, so that SAM predicts them from the pixels."
        )
    return True


def _predicted_iou(data: EvaluationData) -> dict[int, NDArray[np.float32]]:
    found = {}
    for position in data.positions:
        predicted_iou = data.cache.details(position).predicted_iou
        if predicted_iou is None:
            where = data.cache.location
            raise CacheMismatchError(
                f"--score_rule tap needs SAM's predicted IoU of each region, which {where}, a cache"
                " of an older format, does not hold. Run cache_features.py again with the same"
                f" options, a new --output_dir and --reuse {where}, which keeps its feature maps."
            )
        found[int(data.cache.index.image_ids[position])] = np.array(predicted_iou)
    return found


def _masks(data: EvaluationData, models: FrozenModels | None) -> dict[int, RleMasks]:
    masks = _cached_masks(data) if models is None else sam_masks(models, prompted_images(data))
    image_ids = data.cache.index.image_ids[list(data.positions)].tolist()
    found = {}
    with safe_points():
        # `disable=None` keeps log files free of progress bars.
        for image_id, of_image in tqdm(
            zip(image_ids, masks, strict=True),
            desc="masks",
            total=len(image_ids),
            unit=" images",
            disable=None,
        ):
            found[image_id] = of_image
            check_stop()
    return found


def _cached_masks(data: EvaluationData) -> Iterator[RleMasks]:
    for position in data.positions:
        height, width = data.cache.index.sizes_hw[position].tolist()
        counts = data.cache.details(position).masks_rle or ()
        check_masks(counts, (height, width))
        yield RleMasks.of_lists(counts, [(height, width)] * len(counts))
