"""Fixtures for several packages: small genuine caches with random numbers in them."""

import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import settings
from pycocotools import mask as coco_mask

from helpers.training import training_config
from regionspot.cache import (
    CachedSample,
    CodecName,
    Fingerprint,
    Manifest,
    MeasuredError,
    Plan,
    TextBankStore,
    build_index,
    find_codec,
    text_banks_path,
    write_manifest,
    write_shard,
)
from regionspot.core.files import sha256_bytes
from regionspot.core.vocabulary import Vocabulary

# Machines are busy at times: a slow example is no failure.
settings.register_profile("regionspot", deadline=None)
settings.load_profile("regionspot")

# Whoever runs the tests finds nothing of them at home, and no test finds anything of another.
os.environ["REGIONSPOT_TEXT_BANKS_MB"] = "0"

IMAGES_PER_SHARD = 5
TOKEN_DIM, FEATURE_DIM, TEXT_DIM, NUM_FEATURE_TOKENS = 8, 16, 6, 5


def tiny_fingerprint(clip_model: str) -> Fingerprint:
    return Fingerprint(
        sam_model="tiny",
        sam_weights_sha256="0" * 64,
        sam_image_size=64,
        sam_resize="long side",
        clip_model=clip_model,
        clip_weights_sha256="1" * 64,
        clip_image_size=32,
        clip_activation="quick_gelu",
        clip_mean=(0.5, 0.5, 0.5),
        clip_std=(0.25, 0.25, 0.25),
        clip_resize="squash",
        clip_first_token="class token",  # noqa: S106 - not that kind of token
        exif_policy="ignore",
        token_site="transformer",  # noqa: S106 - not that kind of token
        token_dim=TOKEN_DIM,
        feature_dim=FEATURE_DIM,
        num_feature_tokens=NUM_FEATURE_TOKENS,
        text_dim=TEXT_DIM,
    )


def random_sample(
    number: int,
    rng: np.random.Generator,
    *,
    num_regions: int,
    class_tokens: np.ndarray,
    codec: CodecName,
    magnitude: float = 1.0,
) -> CachedSample:
    """One image: tokens tell the class, up to noise, so that there is something to learn."""
    labels = rng.integers(0, len(class_tokens), num_regions)
    corners = rng.uniform(0, 30, (num_regions, 2))
    noise = rng.normal(0, 0.1, (num_regions, TOKEN_DIM))
    features = torch.from_numpy(rng.normal(0, magnitude, (NUM_FEATURE_TOKENS, FEATURE_DIM)))
    feature_codec = find_codec(codec)
    return CachedSample(
        key=f"image{number:03d}",
        image_id=100 + number,
        size_hw=(60, 40 + number),
        boxes_xyxy=np.concatenate([corners, corners + 10], axis=1).astype(np.float32),
        labels=labels.astype(np.int64),
        box_scores=np.ones(num_regions, np.float32),
        position_tokens=(class_tokens[labels] + noise).astype(np.float16),
        feature_map=feature_codec.to_array(feature_codec.encode(features)),
        predicted_iou=np.linspace(0.5, 1, num_regions, dtype=np.float32),
        file_name=f"image{number:03d}.jpg",
    )


def with_random_masks(sample: CachedSample, rng: np.random.Generator) -> CachedSample:
    """Give each region a mask of random pixels, as pycocotools encodes it; every third is empty."""
    masks = rng.random((sample.num_regions, *sample.size_hw)) < 0.5
    masks[2::3] = False
    encoded = [coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]
    return replace(sample, masks_rle=tuple(rle["counts"] for rle in encoded))


@pytest.fixture
def make_cache(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a finished cache below ``tmp_path`` and returns its folder."""
    return cache_maker(tmp_path)


@pytest.fixture(scope="module")
def make_module_cache(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return the same for all tests of a file."""
    return cache_maker(tmp_path_factory.mktemp("caches"))


def cache_maker(parent: Path) -> Callable[..., Path]:
    def make(
        name: str = "tiny",
        *,
        num_images: int = 12,
        names: tuple[str, ...] = ("lemon", "tennis ball", "sea egg"),
        empty: Collection[int] = (),
        huge: Collection[int] = (),
        seed: int = 0,
        clip_model: str = "tiny",
        templates: tuple[str, ...] = ("ensemble81",),
        codec: CodecName = "float16",
        measured_error: MeasuredError | None = None,
        annotation_format: str = "lvis",
        proposals: str | None = None,
        masks: bool = False,
    ) -> Path:
        rng = np.random.default_rng(seed)
        folder = parent / name
        vocabulary = Vocabulary(names)
        keys = [f"image{number:03d}" for number in range(num_images)]
        plan = Plan.from_keys(keys, images_per_shard=IMAGES_PER_SHARD)
        write_manifest(
            folder,
            Manifest(
                name=name,
                fingerprint=tiny_fingerprint(clip_model),
                annotation_sha256="2" * 64,
                annotation_format=annotation_format,
                proposals=proposals,
                masks=masks,
                codec=codec,
                measured_error=measured_error,
                plan=plan,
                vocabulary=vocabulary,
                category_ids=tuple(range(1, len(names) + 1)),
            ),
        )
        class_tokens = rng.normal(0, 1, (len(names), TOKEN_DIM))
        for shard in range(plan.num_shards):
            samples = [
                random_sample(
                    number,
                    rng,
                    num_regions=0 if number in empty else 1 + number % 4,
                    class_tokens=class_tokens,
                    codec=codec,
                    # As bfloat16 holds it, and no head can square it in a layer norm.
                    magnitude=1e37 if number in huge else 1.0,
                )
                for number in plan.images_of(shard)
            ]
            if proposals is not None:
                samples = [replace(one, labels=np.full_like(one.labels, -1)) for one in samples]
            if masks:
                samples = [with_random_masks(one, rng) for one in samples]
            write_shard(folder, shard, samples)
        build_index(folder)
        for template_set in templates:
            bank = rng.normal(0, 1, (len(names), TEXT_DIM))
            bank /= np.linalg.norm(bank, axis=1, keepdims=True)
            TextBankStore(text_banks_path(folder)).put(
                vocabulary,
                bank.astype(np.float32),
                templates=template_set,
                clip_sha256="1" * 64,
            )
        return folder

    return make


@pytest.fixture
def train_config(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a small configuration for ``train.py fit``."""

    def write(cache: Path, *, max_steps: int, save_every: int = 1000, dropout: float = 0.0) -> Path:
        config = training_config(
            tmp_path / "run", [cache], max_steps=max_steps, save_every=save_every, dropout=dropout
        )
        path = tmp_path / "train.yaml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """Run a server that speaks S3 on this machine, and return its URL."""
    from moto.server import ThreadedMotoServer  # slow to import, and few tests want it

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(
    s3_endpoint: str,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> str:
    """Return the ``s3://`` URL of an empty bucket, whose server the environment names."""
    from s3fs import S3FileSystem

    for name, value in {
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": s3_endpoint,
        "REGIONSPOT_HOME": str(tmp_path_factory.mktemp("home")),
        "REGIONSPOT_RETRY_SECONDS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()  # it does not look at the environment again
    name = f"bucket-{sha256_bytes(request.node.nodeid.encode())[:20]}"
    S3FileSystem().mkdir(name)
    return f"s3://{name}"
