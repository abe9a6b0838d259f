"""How much faster is training from a cache than with the frozen models in the step?

    python benchmarks/cached_vs_online.py
    python benchmarks/cached_vs_online.py --device cuda --precision bfloat16 --num_images 256
        --batch_size 32                                            # the same line
    python benchmarks/cached_vs_online.py --preset toy --num_images 16    # to try the script

The fusion head is trained on made-up photos of 640 x 480 with 8 boxes each, at full size (BL: SAM
ViT-B, CLIP ViT-L/14; random weights: they change no speed), by two ways in turn, several times:

- online: each step reads and decodes its images, runs both frozen models on them, without
  gradients and by the code that fills the cache, and trains the head on what they give;
- cached: each step takes its images from the cache of the same photos by the loader of training.

Both take the same optimizer steps in batches of the same size. Prints images a second of each way,
and the ratio by round. What it took to fill the cache is not in it: that is one epoch of the first
way.
"""

import logging
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from cache_job import Setting, make_setting
from common.timing import median_ratio, timed_in_turn
from jsonargparse import auto_cli
from torch import Tensor
from torch.nn import functional as F

from regionspot.backbones import ModelsConfig, Precision
from regionspot.cache import FeatureCache
from regionspot.data import CacheLoader, Collator, SequentialOrder
from regionspot.extraction import CacheJob, PreparedImage, featurize, run_job
from regionspot.model import FusionHead, HeadSpec, RegionClassifier, region_focal_loss

NUM_CLASSES = 365
Batch = tuple[Tensor, Tensor, Tensor]
"""Position tokens, decoded feature maps and labels."""


class Training:
    """A head that takes one optimizer step after the other."""

    def __init__(self, cache: FeatureCache, device: torch.device, precision: Precision) -> None:
        fingerprint = cache.manifest.fingerprint
        self.device, self._precision = device, precision
        self._head = FusionHead(
            HeadSpec(
                token_dim=fingerprint.token_dim,
                feature_dim=fingerprint.feature_dim,
                text_dim=fingerprint.text_dim,
            )
        ).to(device)
        self._classifier = RegionClassifier().to(device)
        bank = torch.randn(NUM_CLASSES, fingerprint.text_dim)
        self._bank = F.normalize(bank, dim=-1).to(device)
        self._optimizer = torch.optim.AdamW(self._head.parameters(), lr=2.5e-5, fused=True)

    def __call__(self, batches: Iterator[Batch]) -> None:
        """Take a step with each batch."""
        dtype: torch.dtype = getattr(torch, self._precision)
        for batch in batches:
            tokens, features, labels = (tensor.to(self.device) for tensor in batch)
            with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
                z_BRE = self._head(tokens, features, torch.ones_like(labels, dtype=torch.bool))
                loss = region_focal_loss(
                    z_BRE,
                    self._bank,
                    labels,
                    classifier=self._classifier,
                    num_counted=labels.numel(),  # all photos have as many boxes
                )
            loss.backward()
            self._optimizer.step()
            self._optimizer.zero_grad()


def online(job: CacheJob, batch_size: int) -> Iterator[Batch]:
    """Yield what the frozen models make of every photo, batch by batch."""
    preparation = job.preparation
    for start in range(0, len(job.records), batch_size):
        records = job.records[start : start + batch_size]
        prepared = [preparation.prepare(record) for record in records]
        images = [image for image in prepared if isinstance(image, PreparedImage)]
        samples = featurize(job.models, images, preparation.locator)
        yield (
            torch.from_numpy(np.stack([sample.position_tokens for sample in samples])),
            torch.from_numpy(np.stack([sample.feature_map for sample in samples])),
            torch.from_numpy(np.stack([sample.labels for sample in samples])),
        )


def cached(cache: FeatureCache, batch_size: int, device: torch.device) -> Iterator[Batch]:
    """Yield every photo from the cache, batch by batch, as training moves them to its device."""
    order = SequentialOrder(num_images=len(cache), batch_size=batch_size)
    collator = Collator([cache], pin_memory=device.type == "cuda")
    for batch in CacheLoader(order, collator):
        moved = batch.to(device)
        yield moved.position_tokens, moved.features(), moved.labels


def compare(setting: Setting, *, rounds: int, epochs_of_cached: int) -> dict[str, list[float]]:
    """Train by both ways in turn; return images a second by round, of "online" and of "cached".

    Args:
        setting: Photos and models.
        rounds: How often each way is timed, after one round that does not count.
        epochs_of_cached: How often the cached way goes through the photos in a round.
    """
    config, batch_size = setting.config, setting.config.batch_size
    job = CacheJob(config, models=setting.models)
    run_job(job)
    with FeatureCache.open(config.output_dir) as cache:
        train = Training(cache, setting.models.encoder.device, config.models.precision)

        def train_cached() -> None:
            for _ in range(epochs_of_cached):
                train(cached(cache, batch_size, train.device))

        ways = {"online": lambda: train(online(job, batch_size)), "cached": train_cached}
        times = timed_in_turn(ways, train.device, rounds=rounds)
    num_images = {"online": len(setting.paths), "cached": len(setting.paths) * epochs_of_cached}
    return {name: [num_images[name] / s for s in seconds] for name, seconds in times.items()}


def benchmark(
    *,
    num_images: int = 8,
    batch_size: int = 8,
    rounds: int = 3,
    epochs_of_cached: int = 4,
    device: str = "cpu",
    preset: str = "bl",
    precision: Precision = "float32",
) -> None:
    """Compare the two ways.

    Args:
        num_images: Photos.
        batch_size: Images of a step.
        rounds: How often each way is timed, in turn.
        epochs_of_cached: How often the cached way goes through the photos in a round.
        device: Where the models run and the head is trained.
        preset: Which SAM and CLIP: bb, bl, bl336 or toy.
        precision: What all of them compute in: float32, bfloat16 or float16.
    """
    logging.disable(logging.WARNING)
    models = ModelsConfig(
        preset=preset, sam_weights="random", clip_weights="random", precision=precision
    )
    with tempfile.TemporaryDirectory() as folder:
        setting = make_setting(Path(folder), models, num_images, batch_size, device)
        rates = compare(setting, rounds=rounds, epochs_of_cached=epochs_of_cached)
    print(f"{preset} in {precision} on {device}, {batch_size} images a step")
    for name, by_way in rates.items():
        print(f"{name:<8} {statistics.median(by_way):10.2f} images/s")
    by_round = " ".join(
        f"{a / b:.0f}" for a, b in zip(rates["cached"], rates["online"], strict=True)
    )
    ratio = median_ratio(rates["cached"], rates["online"])
    print(f"cached / online: {ratio:.0f} (by round: {by_round})")


if __name__ == "__main__":
    auto_cli(benchmark)
