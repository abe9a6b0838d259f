"""AP after every validation epoch of a training run.

Shape letters: B images, R regions (padded), C classes.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from regionspot.annotations import LvisGroundTruth
from regionspot.cache import FeatureCache
from regionspot.core.errors import ConfigError
from regionspot.core.region_scores import RegionScores
from regionspot.data import CachedRegions, RegionBatch
from regionspot.scoring.ap_scores import import_hotcoco
from regionspot.scoring.coco_ap import CocoScorer
from regionspot.scoring.coco_truth import CocoGroundTruth
from regionspot.scoring.ground_truth import check_same_data
from regionspot.scoring.lvis_ap import LvisScorer
from regionspot.scoring.predictions import Predictions
from regionspot.scoring.protocols import Protocol, emit_predictions
from regionspot.scoring.scorers import scorer_of
from regionspot.storage import local_input

_LOGGER = logging.getLogger(__name__)
_LOGGED = ("AP", "APr", "APc", "APf")
_OPTION = "--val_annotations"


class ApValidation(pl.Callback):
    """Logs ``val/AP`` in percent, and with LVIS annotations ``val/APr``, ``val/APc``, ``val/APf``.

    Without annotations AP is COCO AP of the regions in the validation cache. Scored are the images
    that the validation saw, so ``limit_val_batches`` gives a rough figure of fewer images; images
    that the cache had to leave out do not count here, while `evaluate.py` counts them as missed. A
    group of classes without ground truth is not logged.

    Args:
        annotations: The LVIS annotation file that the validation cache was made from, or its URL;
            None for COCO AP.
        protocol: Which (box, class) pairs are scored.

    Raises:
        MissingFileError: There is no annotation file.
        AnnotationError: It is not in LVIS format.
        MissingExtraError: hotcoco is not installed.
    """

    def __init__(
        self, annotations: str | Path | None = None, protocol: Protocol = "flattened_top300"
    ) -> None:
        super().__init__()
        import_hotcoco()  # now, not after the hours of training before the first validation
        self._truth: LvisGroundTruth | CocoGroundTruth | None = None
        if annotations is not None:
            self._truth = LvisGroundTruth.read(local_input(str(annotations)), option=_OPTION)
        self._protocol: Protocol = protocol
        self._category_ids: tuple[int, ...] = ()
        self._parts: list[Predictions] = []
        self._seen: list[int] = []
        self._scorer: tuple[frozenset[int], LvisScorer | CocoScorer] | None = None

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check that the annotations belong to the validation cache, before the first step.

        Raises:
            ConfigError: There is no validation cache.
            AnnotationError: It has images or classes that the annotations lack, or classes that go
                by other names there.
        """
        cache = _val_cache(trainer)
        if isinstance(self._truth, LvisGroundTruth):
            remarks = check_same_data(cache, self._truth, option=_OPTION)
            if trainer.is_global_zero:
                for remark in remarks:
                    _LOGGER.warning(remark)

    @override
    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget the last epoch, and look up which category every class is."""
        self._category_ids = _val_cache(trainer).manifest.category_ids
        self._parts, self._seen = [], []

    @override
    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Tensor | Mapping[str, Any] | None,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Turn a batch's scores into predictions, so that no scores are kept."""
        if not isinstance(outputs, Mapping) or not {"scores", "batch"} <= outputs.keys():
            raise ConfigError(
                f"ApValidation needs a module whose validation_step returns scores and batch, as"
                f" RegionSpotModule does; {type(pl_module).__name__} returned"
                f" {type(outputs).__name__}."
            )
        images = split_batch(outputs["scores"], outputs["batch"])
        self._seen += [image.image_id for image in images]
        self._parts.append(emit_predictions(images, self._category_ids, protocol=self._protocol))

    @override
    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Score the predictions of all ranks and log the figures."""
        predictions, seen = gather_predictions(Predictions.concatenate(self._parts), self._seen)
        if trainer.sanity_checking or not seen:
            return
        if self._truth is None:
            # Only now: by this time the cache has been read once, and its shards are in memory.
            self._truth = CocoGroundTruth.of_cache(_val_cache(trainer))
        scores = self._scorer_for(self._truth, frozenset(seen)).score(predictions)
        figures = scores.figures()
        for name in _LOGGED:
            value = figures.get(name)
            if value is not None:
                # Every rank scored the same predictions: there is nothing left to reduce.
                pl_module.log(f"val/{name}", value, prog_bar=name == "AP", rank_zero_only=False)

    def _scorer_for(
        self, truth: LvisGroundTruth | CocoGroundTruth, image_ids: frozenset[int]
    ) -> LvisScorer | CocoScorer:
        if self._scorer is None or self._scorer[0] != image_ids:
            missing = len(truth.image_ids) - len(image_ids)
            if missing:
                _LOGGER.info(
                    "validation AP is over %d images; %d more are annotated",
                    len(image_ids),
                    missing,
                )
            self._scorer = (image_ids, scorer_of(truth.subset(image_ids)))
        return self._scorer[1]


def scores_itself(cache: FeatureCache) -> bool:
    """Return whether COCO AP of a cache's own regions is the figure that its users expect.

    It is not for LVIS, whose AP is another figure; for proposals, whose classes are unknown; and
    for merged caches that hold an image id twice.
    """
    manifest = cache.manifest
    return (
        manifest.annotation_format != "lvis"
        and manifest.proposals is None
        and len(np.unique(cache.index.image_ids)) == len(cache)
    )


def _val_cache(trainer: pl.Trainer) -> FeatureCache:
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, CachedRegions) or data.val_cache is None:
        raise ConfigError(
            "ApValidation scores the validation cache of a CachedRegions data module and found"
            " none. Set data.val, or leave the callback out."
        )
    return data.val_cache


def split_batch(scores: Tensor, batch: RegionBatch) -> list[RegionScores]:
    """Take a batch apart into its images, without the padding.

    Args:
        scores: Class probabilities, (B, R, C), any float dtype and device.
        batch: The images they belong to.
    """
    probabilities: NDArray[np.float32] = scores.detach().float().cpu().numpy()
    masks: NDArray[np.bool_] = batch.region_mask.cpu().numpy()
    boxes: NDArray[np.float32] = batch.boxes_xyxy.float().cpu().numpy()
    box_scores: NDArray[np.float32] = batch.box_scores.float().cpu().numpy()
    return [
        RegionScores(
            image_id=int(image_id),
            boxes_xyxy=boxes[index][masks[index]],
            scores=probabilities[index][masks[index]],
            box_scores=box_scores[index][masks[index]],
        )
        for index, image_id in enumerate(batch.image_ids.tolist())
    ]


def gather_predictions(predictions: Predictions, seen: list[int]) -> tuple[Predictions, list[int]]:
    """Join the predictions of all processes; an image that several of them saw counts once.

    Args:
        predictions: What this process predicted.
        seen: The ids of the images that it saw, also those without regions.

    Returns:
        All predictions and all images seen, the same in every process, whatever their number.
    """
    shares: list[tuple[Predictions, list[int]]] = [(predictions, seen)]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        shares = [(Predictions.empty(), [])] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(shares, (predictions, seen))
    known: set[int] = set()
    parts = []
    for part, images in shares:
        new = set(images) - known
        parts.append(part.select(np.isin(part.image_ids, list(new))))
        known |= new
    return Predictions.concatenate(parts), sorted(known)
