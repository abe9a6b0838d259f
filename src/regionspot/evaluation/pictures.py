"""Chooses the images that the report shows, and draws them."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from regionspot.backbones.presets import as_exif_policy
from regionspot.cache import CachedSample, FeatureCache, decode_masks
from regionspot.core.errors import MissingFileError
from regionspot.evaluation.data import EvaluationData
from regionspot.evaluation.methods import MethodOutput
from regionspot.evaluation.report_parts import (
    ImageAttention,
    NamesByMethod,
    RegionAttention,
    RegionPicture,
    ReportPicture,
)
from regionspot.inference import load_image
from regionspot.inference.from_cache import cached_extents
from regionspot.model import TrainedHead
from regionspot.viz import (
    NamedPhoto,
    NamedRegion,
    attention_in_box,
    attention_limit,
    draw_ap_curve,
    draw_attention,
    draw_attention_scale,
    draw_contact_sheet,
    draw_guidance,
    draw_loss_curve,
    find_metrics_csv,
    outline_regions,
    read_training_log,
)

_logger = logging.getLogger(__name__)

_MAX_SHEET_IMAGES, _MAX_SHEET_REGIONS = 3, 10
_MAX_ATTENTION_IMAGES = 3
_MAX_ATTENTION_REGIONS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionPictures:
    """The pictures of single images."""

    sampled: tuple[RegionPicture, ...] = ()
    """Images at even distances in the cache."""
    sampled_note: str = ""
    """How they were chosen."""
    named_regions: bytes | None = None
    """A contact sheet, as JPEG, of the first of them."""
    mistakes: tuple[RegionPicture, ...] = ()
    """Images with the most confident mistakes."""
    attention: tuple[ImageAttention, ...] = ()
    """Attention maps of the regions of the first sampled images."""


def draw_region_pictures(
    data: EvaluationData,
    outputs: Sequence[MethodOutput],
    heads: Mapping[str, TrainedHead],
    *,
    num_pictures: int,
) -> RegionPictures:
    """Draw sampled images, the most confident mistakes, and attention maps.

    Args:
        data: The images; if their folder is unknown, nothing is drawn.
        outputs: The methods; mistakes and attention maps are those of the first. Files of results
            have no names to show and are left out.
        heads: The heads by name of the method, for attention maps.
        num_pictures: Number of sampled images; half as many mistakes are shown.
    """
    named = [output for output in outputs if output.named]
    if not (data.image_paths and num_pictures and named):
        return RegionPictures()
    first = named[0]
    positions = _sampled_positions(data, num_pictures)
    mistaken = _most_confident_mistakes(data, first, math.ceil(num_pictures / 2))
    total = int((data.cache.index.num_regions[list(data.positions)] > 0).sum())
    chosen = [data.cache.sample(position) for position in positions]
    return RegionPictures(
        sampled=tuple(_region_picture(data, named, position) for position in positions),
        sampled_note=(
            f"{len(positions)} of {total:,} images, at even distances in the data set, chosen"
            " without looking at the results."
        ),
        named_regions=_contact_sheet(data, first, chosen[:_MAX_SHEET_IMAGES]),
        mistakes=tuple(_region_picture(data, named, position) for position in mistaken),
        attention=_attention_pictures(data, first, heads.get(first.name), chosen),
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


def _sampled_positions(data: EvaluationData, count: int) -> list[int]:
    positions = np.array(data.positions, np.int64)
    usable = positions[data.cache.index.num_regions[positions] > 0]
    steps = np.linspace(0, len(usable) - 1, min(count, len(usable))).round().astype(np.int64)
    return [int(position) for position in usable[steps]]


def _most_confident_mistakes(data: EvaluationData, output: MethodOutput, count: int) -> list[int]:
    """Return the positions of the images with the most confident wrong names, these first."""
    surest: list[tuple[float, int]] = []
    for position, (image_id, labels) in zip(data.positions, data.labels.items(), strict=True):
        named = output.named[image_id]
        wrong = named.probabilities[(named.predicted != labels) & (labels >= 0)]
        if len(wrong):
            surest.append((-float(wrong.max()), position))
    return [position for _, position in sorted(surest)[:count]]


def _region_picture(
    data: EvaluationData, outputs: Sequence[MethodOutput], position: int
) -> RegionPicture:
    sample = data.cache.sample(position)
    masks_rle = data.cache.details(position).masks_rle
    names = tuple(
        NamesByMethod(method=output.name, regions=_named_regions(data, output, sample))
        for output in outputs
    )
    return RegionPicture(
        title=f"Image {sample.image_id}",
        photo=outline_regions(
            _pixels(data, sample),
            [region.box_xyxy for region in names[0].regions],
            None if masks_rle is None else decode_masks(masks_rle, sample.size_hw),
        ),
        names=names,
    )


def _contact_sheet(
    data: EvaluationData, output: MethodOutput, samples: Sequence[CachedSample]
) -> bytes | None:
    photos = []
    for sample in samples:
        regions = _named_regions(data, output, sample)
        count = NamesByMethod(method=output.name, regions=regions).count
        title = f"Image {sample.image_id}: {count}"
        if len(regions) > _MAX_SHEET_REGIONS:
            title += f" (first {_MAX_SHEET_REGIONS} shown)"
        shown = regions[:_MAX_SHEET_REGIONS]
        photos.append(NamedPhoto(title=title, image=_pixels(data, sample), regions=shown))
    return draw_contact_sheet(photos) if photos else None


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
    data: EvaluationData,
    output: MethodOutput,
    head: TrainedHead | None,
    samples: Sequence[CachedSample],
) -> tuple[ImageAttention, ...]:
    patches = data.cache.manifest.fingerprint.num_feature_tokens - 1
    if head is None or math.isqrt(patches) ** 2 != patches:
        _logger.info("no attention maps: %d patches, and a square grid and a head wanted", patches)
        return ()
    return tuple(
        _image_attention(data, output, head, sample) for sample in samples[:_MAX_ATTENTION_IMAGES]
    )


def _image_attention(
    data: EvaluationData, output: MethodOutput, head: TrainedHead, sample: CachedSample
) -> ImageAttention:
    pixels = _pixels(data, sample)
    regions = _named_regions(data, output, sample)[:_MAX_ATTENTION_REGIONS]
    attention = _attention_of(head, data.cache, sample)[: len(regions)]
    limit = attention_limit(attention)
    first_token = data.cache.manifest.fingerprint.clip_first_token
    share = 100 * float(attention[:, 0].mean())
    drawn = []
    for region, own in zip(regions, attention, strict=True):
        x1, y1, x2, y2 = region.box_xyxy
        inside = attention_in_box(own, region.box_xyxy, sample.size_hw)
        area = (x2 - x1) * (y2 - y1) / (sample.size_hw[0] * sample.size_hw[1])
        picture = ReportPicture(
            data=draw_attention(pixels, region.box_xyxy, own, limit=limit),
            alt=f"Attention of the region named {region.name}",
            caption=f"{inside:.0%} of the attention inside the box ({area:.0%} of the image)",
        )
        drawn.append(RegionAttention(picture=picture, region=region))
    return ImageAttention(
        title=f"Image {sample.image_id}. The {first_token} gets {share:.0f}% of all attention.",
        scale=ReportPicture(
            data=draw_attention_scale(limit),
            alt=f"Colours from 1 to {limit:.1f} times uniform attention",
        ),
        regions=tuple(drawn),
    )


@torch.inference_mode()
def _attention_of(
    head: TrainedHead, cache: FeatureCache, sample: CachedSample
) -> NDArray[np.float32]:
    """Return the attention of all regions of an image to all tokens, (R, T)."""
    device = next(head.head.parameters()).device
    tokens = torch.from_numpy(np.array(sample.position_tokens, np.float32)).to(device)
    features = cache.features(sample).to(device)
    extents = cached_extents(head.head, cache, sample).to(device)
    attention = head.head.attention_maps(tokens[None], features[None], extents=extents[None])
    maps: NDArray[np.float32] = attention[0].cpu().numpy()
    return maps


def _pixels(data: EvaluationData, sample: CachedSample) -> NDArray[np.uint8]:
    path = data.image_paths.get(sample.image_id)
    if path is None:
        raise MissingFileError(f"{data.images_from} does not say where image {sample.key} is.")
    exif_policy = as_exif_policy(data.cache.manifest.fingerprint.exif_policy)
    return load_image(path, exif_policy=exif_policy, rotation_log_level=logging.DEBUG)
