"""A tiny cache: 7 images in shards of 3, one of them quarantined, some without a region.

It has masks, the longest form of the format; ``tests/data/caches/format3.zip`` is the same in
format 3, written before there was another one.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from regionspot.cache import (
    CachedSample,
    Fingerprint,
    Manifest,
    Plan,
    QuarantinedImage,
    TextBankStore,
    build_index,
    text_banks_path,
    write_manifest,
    write_shard,
)
from regionspot.core.vocabulary import Vocabulary

KEYS = tuple(f"img_{number}" for number in range(7))
QUARANTINED = QuarantinedImage(
    key="img_4", image_id=104, file_name="a/b 4.jpg", reason="cannot be decoded: caf\u00e9"
)


@pytest.fixture
def fingerprint() -> Fingerprint:
    return Fingerprint(
        sam_model="vit_b",
        sam_weights_sha256="5" * 64,
        sam_image_size=1024,
        sam_resize="bilinear, antialias",
        clip_model="ViT-L-14-quickgelu",
        clip_weights_sha256="c" * 64,
        clip_image_size=224,
        clip_activation="quick_gelu",
        clip_mean=(0.48145466, 0.4578275, 0.40821073),
        clip_std=(0.26862954, 0.26130258, 0.27577711),
        clip_resize="squash, bilinear, antialias",
        clip_first_token="class token",  # noqa: S106 - not that kind of token
        exif_policy="ignore",
        token_site="transformer",  # noqa: S106 (no password)
        token_dim=4,
        feature_dim=6,
        num_feature_tokens=5,
        text_dim=3,
    )


@pytest.fixture
def manifest(fingerprint: Fingerprint) -> Manifest:
    return Manifest(
        name="tiny",
        fingerprint=fingerprint,
        annotation_sha256="a" * 64,
        annotation_format="lvis",
        masks=True,
        plan=Plan.from_keys(KEYS, images_per_shard=3),
        vocabulary=Vocabulary(("lemon", "caf\u00e9", "tennis ball")),
        category_ids=(3, 7, 11),
    )


@pytest.fixture
def make_sample() -> Callable[[int], CachedSample]:
    """Image ``i`` has ``i % 3`` regions and numbers that follow from ``i``."""

    def make(number: int) -> CachedSample:
        rng = np.random.default_rng(number)
        num_regions = number % 3
        return CachedSample(
            key=f"img_{number}",
            image_id=100 + number,
            size_hw=(480, 640 + number),
            boxes_xyxy=rng.random((num_regions, 4), dtype=np.float32),
            labels=rng.integers(0, 3, num_regions),
            box_scores=np.linspace(0.25, 1, num_regions, dtype=np.float32),
            position_tokens=rng.standard_normal((num_regions, 4)).astype(np.float16),
            feature_map=rng.standard_normal((5, 6)).astype(np.float16),
            predicted_iou=rng.random(num_regions, dtype=np.float32),
            masks_rle=masks_of(number, num_regions),
            file_name=f"caf\u00e9/{number}.jpg",
        )

    return make


def masks_of(number: int, num_regions: int) -> tuple[bytes, ...]:
    """Boxes as masks, as pycocotools encodes them."""
    boxes = [[10 + region, 20 + number, 5, 7] for region in range(num_regions)]
    encoded = coco_mask.frPyObjects(np.array(boxes, np.float64).reshape(-1, 4), 480, 640 + number)
    return tuple(rle["counts"] for rle in encoded)


@pytest.fixture
def write_tiny_shard(make_sample: Callable[[int], CachedSample]) -> Callable[[Path, int], None]:
    """Write shard ``shard`` of the tiny cache into a folder that has the manifest."""

    def write(cache_dir: Path, shard: int) -> None:
        numbers = range(3 * shard, min(3 * shard + 3, 7))

        def samples() -> Iterator[CachedSample]:
            for number in numbers:
                if number != 4:
                    yield make_sample(number)

        write_shard(cache_dir, shard, samples(), [QUARANTINED] if 4 in numbers else [])

    return write


@pytest.fixture
def make_cache(
    manifest: Manifest, write_tiny_shard: Callable[[Path, int], None]
) -> Callable[[Path], Path]:
    """Write the whole tiny cache into a folder."""

    def make(cache_dir: Path) -> Path:
        write_manifest(cache_dir, manifest)
        for shard in range(3):
            write_tiny_shard(cache_dir, shard)
        build_index(cache_dir)
        TextBankStore(text_banks_path(cache_dir)).put(
            manifest.vocabulary,
            np.eye(3, dtype=np.float32),
            templates="single",
            clip_sha256=manifest.fingerprint.clip_weights_sha256,
        )
        return cache_dir

    return make


@pytest.fixture
def cache_dir(tmp_path: Path, make_cache: Callable[[Path], Path]) -> Path:
    return make_cache(tmp_path / "tiny")
