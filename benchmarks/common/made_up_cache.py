"""A feature cache of random numbers, at BL's sizes or smaller: values change no speed."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from regionspot.cache import (
    CachedSample,
    Fingerprint,
    Manifest,
    Plan,
    TextBankStore,
    build_index,
    text_banks_path,
    write_manifest,
    write_shard,
)
from regionspot.core.vocabulary import Vocabulary

BATCH_SIZE, IMAGES_PER_SHARD, MAX_REGIONS = 16, 200, 16


@dataclass(frozen=True, kw_only=True)
class Widths:
    """Of a cached image's arrays; the defaults are BL's."""

    num_tokens: int = 257
    """Tokens of a feature map."""
    feature_dim: int = 1024
    """Width of a feature map."""
    token_dim: int = 256
    """Width of a position token."""
    text_dim: int = 768
    """Width of a class embedding."""

    @property
    def feature_map_bytes(self) -> int:
        """Bytes of a feature map in float16."""
        return 2 * self.num_tokens * self.feature_dim


BL = Widths()


def made_up_sample(number: int, widths: Widths = BL) -> CachedSample:
    """Return random numbers."""
    rng = np.random.default_rng(number)
    num_regions = int(rng.integers(1, MAX_REGIONS + 1))
    feature_map = rng.standard_normal((widths.num_tokens, widths.feature_dim), np.float32)
    return CachedSample(
        key=f"{number:012d}",
        image_id=number,
        size_hw=(480, 640),
        boxes_xyxy=rng.random((num_regions, 4), dtype=np.float32),
        labels=rng.integers(0, 2, num_regions),
        box_scores=np.ones(num_regions, np.float32),
        position_tokens=rng.standard_normal((num_regions, widths.token_dim)).astype(np.float16),
        feature_map=feature_map.astype(np.float16),
        predicted_iou=rng.random(num_regions, dtype=np.float32),
        file_name=f"{number:012d}.jpg",
    )


def made_up_fingerprint(widths: Widths = BL) -> Fingerprint:
    """Return a fingerprint with these widths."""
    return Fingerprint(
        sam_model="vit_b",
        sam_weights_sha256="0" * 64,
        sam_image_size=1024,
        sam_resize="-",
        clip_model="ViT-L-14-quickgelu",
        clip_weights_sha256="1" * 64,
        clip_image_size=224,
        clip_activation="quick_gelu",
        clip_mean=(0.5, 0.5, 0.5),
        clip_std=(0.25, 0.25, 0.25),
        clip_resize="-",
        clip_first_token="class token",  # noqa: S106 - not that kind of token
        exif_policy="ignore",
        token_site="transformer",  # noqa: S106 - not that kind of token
        token_dim=widths.token_dim,
        feature_dim=widths.feature_dim,
        num_feature_tokens=widths.num_tokens,
        text_dim=widths.text_dim,
    )


def made_up_manifest(num_images: int, num_classes: int, widths: Widths = BL) -> Manifest:
    """Return the manifest of such images, keyed by their numbers."""
    keys = [f"{number:012d}" for number in range(num_images)]
    return Manifest(
        name="made up",
        fingerprint=made_up_fingerprint(widths),
        annotation_sha256="0" * 64,
        annotation_format="coco",
        plan=Plan.from_keys(keys, images_per_shard=IMAGES_PER_SHARD),
        vocabulary=Vocabulary(tuple(f"class {number}" for number in range(num_classes))),
        category_ids=tuple(range(1, num_classes + 1)),
    )


def write_cache(cache_dir: Path, num_images: int, *, num_classes: int, widths: Widths = BL) -> None:
    """Write such images as a feature cache that can be trained on."""
    manifest = made_up_manifest(num_images, num_classes, widths)
    write_manifest(cache_dir, manifest)
    for shard in range(manifest.plan.num_shards):
        images = manifest.plan.images_of(shard)
        write_shard(cache_dir, shard, (made_up_sample(number, widths) for number in images))
    build_index(cache_dir)
    bank = np.random.default_rng(0).standard_normal((num_classes, widths.text_dim), np.float32)
    bank /= np.linalg.norm(bank, axis=1, keepdims=True)
    TextBankStore(text_banks_path(cache_dir)).put(
        manifest.vocabulary,
        bank,
        templates="none",
        clip_sha256=manifest.fingerprint.clip_weights_sha256,
    )
