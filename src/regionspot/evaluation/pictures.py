"""Chooses the images that the report shows, and draws them."""

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
from regionspot.core.geometry import pixels_to_relative
from regionspot.evaluation.data import EvaluationData
from regionspot.evaluation.methods import MethodOutput
from regionspot.evaluation.report_parts import ReportPicture
from regionspot.inference import load_image
from regionspot.model import TrainedHead
from regionspot.viz import (
    NamedPhoto,
    NamedRegion,
    draw_ap_curve,
    draw_attention,
    draw_contact_sheet,
    draw_guidance,
    draw_loss_curve,
    draw_numbered_regions,
    find_metrics_csv,
    read_training_log,
)

_logger = logging.getLogger(__name__)

_MAX_SHEET_IMAGES, _MAX_SHEET_REGIONS = 3, 10
_MAX_ATTENTION_IMAGES = 3
_MAX_ATTENTION_REGIONS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionPictures:
    """The pictures of single images."""

    sampled: tuple[ReportPicture, ...] = ()
    """Images at even distances in the cache."""
    sampled_note: str = ""
    """How they were chosen."""
    named_regions: bytes | None = None
    """A contact sheet, as JPEG, of the first of them."""
    mistakes: tuple[ReportPicture, ...] = ()
    """Images with the most confident mistakes."""
    attention: tuple[ReportPicture, ...] = ()
    """Attention maps of the regions of the first sampled images."""


def draw_region_pictures(
    data: EvaluationData, output: MethodOutput, head: TrainedHead | None, *, num_pictures: int
) -> RegionPictures:
    """Draw sampled images, the most confident mistakes, and attention maps.

    Args:
        data: The images; if their folder is unknown, nothing is drawn.
        output: The method whose names are shown; a file of results has none to show.
        head: The method's head, for attention maps; None for a method without one.
        num_pictures: Number of sampled images; half as many mistakes are shown.
    """
    if not (data.image_paths and num_pictures and output.named):
        return RegionPictures()
    positions = _sampled_positions(data, num_pictures)
    chosen = [data.cache.sample(position) for position in positions]
    mistaken = _most_confident_mistakes(data, output, math.ceil(num_pictures / 2))
    total = int((data.cache.index.num_regions[list(data.positions)] > 0).sum())
    return RegionPictures(
        sampled=tuple(_named_picture(data, output, sample) for sample in chosen),
        sampled_note=(
            f"{len(chosen)} of {total:,} images, at even distances in the data set, chosen without"
            f" looking at the results. Names by {output.name}."
        ),
        named_regions=_contact_sheet(data, output, chosen[:_MAX_SHEET_IMAGES]),
        mistakes=tuple(_named_picture(data, output, sample) for sample in mistaken),
        attention=_attention_pictures(data, output, head, chosen) if head else (),
    )


def draw_curves(training_dirs: Sequence[str]) -> tuple[ReportPicture, ...]:
    """Draw loss, validation AP and learned guidance of the stages of a training; () if none.

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
        "Learned guidance of each attention head by optimizer step": draw_guidance(log),
    }
    return tuple(
        ReportPicture(data=picture, alt=alt)
        for alt, picture in drawn.items()
        if picture is not None
    )


def _sampled_positions(data: EvaluationData, count: int) -> NDArray[np.int64]:
    positions = np.array(data.positions, np.int64)
    usable = positions[data.cache.index.num_regions[positions] > 0]
    steps = np.linspace(0, len(usable) - 1, min(count, len(usable))).round().astype(np.int64)
    return usable[steps].astype(np.int64)


def _most_confident_mistakes(
    data: EvaluationData, output: MethodOutput, count: int
) -> list[CachedSample]:
    """Return the images with the most confident wrong names, the most confident first."""
    surest: list[tuple[float, int]] = []
    for position, (image_id, labels) in zip(data.positions, data.labels.items(), strict=True):
        named = output.named[image_id]
        wrong = named.probabilities[(named.predicted != labels) & (labels >= 0)]
        if len(wrong):
            surest.append((-float(wrong.max()), position))
    return [data.cache.sample(position) for _, position in sorted(surest)[:count]]


def _named_picture(
    data: EvaluationData, output: MethodOutput, sample: CachedSample
) -> ReportPicture:
    regions = _named_regions(data, output, sample)
    return ReportPicture(
        data=draw_numbered_regions(_pixels(data, sample), regions, picture_format="jpeg"),
        alt=f"Image {sample.image_id} with {len(regions)} numbered boxes",
        caption=_title(sample, regions),
        regions=regions,
    )


def _contact_sheet(
    data: EvaluationData, output: MethodOutput, samples: Sequence[CachedSample]
) -> bytes | None:
    photos = []
    for sample in samples:
        regions = _named_regions(data, output, sample)
        title = _title(sample, regions)
        if len(regions) > _MAX_SHEET_REGIONS:
            title += f" (first {_MAX_SHEET_REGIONS} shown)"
        shown = regions[:_MAX_SHEET_REGIONS]
        photos.append(NamedPhoto(title=title, image=_pixels(data, sample), regions=shown))
    return draw_contact_sheet(photos) if photos else None


def _title(sample: CachedSample, regions: Sequence[NamedRegion]) -> str:
    known = [region.is_right for region in regions if region.is_right is not None]
    told = f"{sum(known)} of {len(known)} right" if known else f"{len(regions)} regions"
    return f"Image {sample.image_id}: {told}"


def _named_regions(
    data: EvaluationData, output: MethodOutput, sample: CachedSample
) -> tuple[NamedRegion, ...]:
    names = data.cache.manifest.vocabulary.names
    named = output.named[sample.image_id]
    rows = zip(
        sample.boxes_xyxy.tolist(),
        named.predicted.tolist(),
        named.probabilities.tolist(),
        sample.labels.tolist(),
        strict=True,
    )
    return tuple(
        NamedRegion(
            box_xyxy=(box[0], box[1], box[2], box[3]),
            name=names[label],
            true_name=None if true < 0 else names[true],
            score=score,
        )
        for box, label, score, true in rows
    )


def _attention_pictures(
    data: EvaluationData, output: MethodOutput, head: TrainedHead, samples: Sequence[CachedSample]
) -> tuple[ReportPicture, ...]:
    fingerprint = data.cache.manifest.fingerprint
    patches = fingerprint.num_feature_tokens - 1
    if math.isqrt(patches) ** 2 != patches:
        _logger.info("no attention maps: %d patches do not form a square grid", patches)
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
                    f"Image {sample.image_id}. Titles are the predicted names. On average the"
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
    boxes = torch.from_numpy(pixels_to_relative(sample.boxes_xyxy, sample.size_hw)).to(device)
    attention = head.head.attention_maps(
        tokens[None], features[None], relative_boxes_BR4=boxes[None]
    )
    maps: NDArray[np.float32] = attention[0].cpu().numpy()
    return maps


def _pixels(data: EvaluationData, sample: CachedSample) -> NDArray[np.uint8]:
    path = data.image_paths.get(sample.image_id)
    if path is None:
        raise MissingFileError(f"{data.images_from} does not say where image {sample.key} is.")
    exif_policy = as_exif_policy(data.cache.manifest.fingerprint.exif_policy)
    return load_image(path, exif_policy=exif_policy, rotation_log_level=logging.DEBUG)
