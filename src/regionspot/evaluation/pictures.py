"""The pictures of the report: which images, drawn how."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from regionspot.backbones.presets import as_exif_policy
from regionspot.cache import CachedSample, FeatureCache
from regionspot.core.errors import MissingFileError
from regionspot.evaluation.data import EvaluationData
from regionspot.evaluation.methods import MethodOutput
from regionspot.evaluation.report_html import ReportPicture
from regionspot.inference import load_image
from regionspot.model import TrainedHead
from regionspot.viz import (
    NamedRegion,
    draw_ap_curve,
    draw_attention,
    draw_loss_curve,
    draw_named_regions,
    find_metrics_csv,
    read_training_log,
)

_logger = logging.getLogger(__name__)

_MAX_ATTENTION_IMAGES = 3
_MAX_ATTENTION_REGIONS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionPictures:
    """The pictures of single images."""

    sampled: tuple[ReportPicture, ...] = ()
    """Images at even distances in the cache."""
    sampled_note: str = ""
    """How they were chosen."""
    mistakes: tuple[ReportPicture, ...] = ()
    """Images with the most confident mistakes."""
    attention: tuple[ReportPicture, ...] = ()
    """Where the regions of some sampled images looked."""


def draw_region_pictures(
    data: EvaluationData, output: MethodOutput, head: TrainedHead | None, *, num_pictures: int
) -> RegionPictures:
    """Draw sampled images, the most confident mistakes, and attention maps.

    Args:
        data: The images; without their folder nothing is drawn.
        output: The method whose names are shown.
        head: The method's head, for attention maps; None for a method without one.
        num_pictures: How many sampled images; half as many mistakes.
    """
    if not data.image_paths or not num_pictures:
        return RegionPictures()
    positions = _sampled_positions(data, num_pictures)
    chosen = [data.cache.sample(position) for position in positions]
    mistaken = _most_confident_mistakes(data, output, math.ceil(num_pictures / 2))
    total = int((data.cache.index.num_regions > 0).sum())
    return RegionPictures(
        sampled=tuple(_named_picture(data, output, sample) for sample in chosen),
        sampled_note=(
            f"{len(chosen)} of {total:,} images, at even distances in the data set, chosen without"
            f" looking at the results. Names by {output.name}."
        ),
        mistakes=tuple(_named_picture(data, output, sample) for sample in mistaken),
        attention=_attention_pictures(data, output, head, chosen) if head else (),
    )


def draw_curves(training_dirs: Sequence[str]) -> tuple[ReportPicture, ...]:
    """Draw loss and validation AP of the stages of a training; no stages give no pictures.

    Raises:
        MissingFileError: A folder holds no metrics.csv.
    """
    if not training_dirs:
        return ()
    log = read_training_log(
        [(Path(folder).name, find_metrics_csv(Path(folder))) for folder in training_dirs]
    )
    drawn = {
        "Training loss by optimizer step": draw_loss_curve(log),
        "AP on the validation images by optimizer step": draw_ap_curve(log),
    }
    return tuple(
        ReportPicture(data=picture, alt=alt)
        for alt, picture in drawn.items()
        if picture is not None
    )


def _sampled_positions(data: EvaluationData, count: int) -> NDArray[np.int64]:
    usable = np.flatnonzero(data.cache.index.num_regions)
    steps = np.linspace(0, len(usable) - 1, min(count, len(usable))).round().astype(np.int64)
    return usable[steps].astype(np.int64)


def _most_confident_mistakes(
    data: EvaluationData, output: MethodOutput, count: int
) -> list[CachedSample]:
    """Return the images with the surest wrong names, the surest first."""
    surest: list[tuple[float, int]] = []
    for position, (image_id, labels) in enumerate(data.labels.items()):
        named = output.named[image_id]
        wrong = named.probabilities[(named.labels != labels) & (labels >= 0)]
        if len(wrong):
            surest.append((-float(wrong.max()), position))
    return [data.cache.sample(position) for _, position in sorted(surest)[:count]]


def _named_picture(
    data: EvaluationData, output: MethodOutput, sample: CachedSample
) -> ReportPicture:
    regions = _named_regions(data, output, sample)
    known = [region for region in regions if region.is_right is not None]
    right = f"{sum(bool(region.is_right) for region in known)} of {len(known)} right"
    return ReportPicture(
        data=draw_named_regions(_pixels(data, sample), regions, picture_format="jpeg"),
        alt="; ".join(_describe_region(region) for region in regions),
        caption=f"Image {sample.image_id}: {right if known else f'{len(regions)} regions'}",
    )


def _named_regions(
    data: EvaluationData, output: MethodOutput, sample: CachedSample
) -> list[NamedRegion]:
    names = data.cache.manifest.vocabulary.names
    named = output.named[sample.image_id]
    rows = zip(
        sample.boxes_xyxy.tolist(),
        named.labels.tolist(),
        named.probabilities.tolist(),
        sample.labels.tolist(),
        strict=True,
    )
    return [
        NamedRegion(
            box_xyxy=(box[0], box[1], box[2], box[3]),
            name=names[label],
            true_name=None if true < 0 else names[true],
            score=score,
        )
        for box, label, score, true in rows
    ]


def _describe_region(region: NamedRegion) -> str:
    if region.is_right is None:
        return region.name
    return f"{region.name} ({'right' if region.is_right else f'is {region.true_name}'})"


def _attention_pictures(
    data: EvaluationData, output: MethodOutput, head: TrainedHead, samples: Sequence[CachedSample]
) -> tuple[ReportPicture, ...]:
    fingerprint = data.cache.manifest.fingerprint
    patches = fingerprint.num_feature_tokens - 1
    if math.isqrt(patches) ** 2 != patches:
        _logger.info("no attention maps: %d patches are no square grid", patches)
        return ()
    pictures = []
    for sample in samples[:_MAX_ATTENTION_IMAGES]:
        regions = _named_regions(data, output, sample)[:_MAX_ATTENTION_REGIONS]
        maps = _attention_of(head, data.cache, sample)[: len(regions)]
        share = 100 * float(maps[:, 0].mean())
        pictures.append(
            ReportPicture(
                data=draw_attention(_pixels(data, sample), regions, maps, picture_format="jpeg"),
                alt=f"Attention of {len(regions)} regions of image {sample.image_id}",
                caption=(
                    f"Image {sample.image_id}. Titles are the names given. On average the"
                    f" {fingerprint.clip_first_token} gets {share:.0f}% of the attention."
                ),
            )
        )
    return tuple(pictures)


@torch.inference_mode()
def _attention_of(
    head: TrainedHead, cache: FeatureCache, sample: CachedSample
) -> NDArray[np.float32]:
    """Return the attention of all regions of an image to all tokens, (R, T)."""
    device = next(head.head.parameters()).device
    tokens = torch.from_numpy(np.array(sample.position_tokens, np.float32)).to(device)
    features = cache.features(sample).to(device)
    maps: NDArray[np.float32] = (
        head.head.attention_maps(tokens[None], features[None])[0].cpu().numpy()
    )
    return maps


def _pixels(data: EvaluationData, sample: CachedSample) -> NDArray[np.uint8]:
    path = data.image_paths.get(sample.image_id)
    if path is None:
        raise MissingFileError(f"{data.annotations_path} does not say where image {sample.key} is.")
    exif_policy = as_exif_policy(data.cache.manifest.fingerprint.exif_policy)
    return load_image(path, exif_policy=exif_policy, rotation_log_level=logging.DEBUG)
