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
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from cache_job import write_photos
from jsonargparse import auto_cli
from torch import Tensor
from torch.nn import functional as F

from regionspot.backbones import ModelsConfig, load_frozen_models
from regionspot.backbones.presets import Precision
from regionspot.cache import FeatureCache
from regionspot.data import CacheLoader
from regionspot.data.assembly import Assembler
from regionspot.data.order import SequentialOrder
from regionspot.extraction import AnnotationsConfig, CacheConfig
from regionspot.extraction.featurize import featurize
from regionspot.extraction.job import CacheJob
from regionspot.extraction.prepare import PreparedImage
from regionspot.extraction.run import run_job
from regionspot.model import FusionHead, RegionClassifier, region_focal_loss

NUM_CLASSES = 365
Batch = tuple[Tensor, Tensor, Tensor]
"""Position tokens, decoded feature maps and labels."""


class Training:
    """A head that takes one optimizer step after the other."""

    def __init__(self, cache: FeatureCache, device: str, precision: Precision) -> None:
        fingerprint = cache.manifest.fingerprint
        self.device, self._precision = torch.device(device), precision
        self._head = FusionHead(
            token_dim=fingerprint.token_dim,
            feature_dim=fingerprint.feature_dim,
            text_dim=fingerprint.text_dim,
        ).to(device)
        self._classifier = RegionClassifier().to(device)
        bank = torch.randn(NUM_CLASSES, fingerprint.text_dim)
        self._bank = F.normalize(bank, dim=-1).to(device)
        self._optimizer = torch.optim.AdamW(self._head.parameters(), lr=2.5e-5, fused=True)

    def __call__(self, batches: Iterator[Batch]) -> None:
        """Take a step with each batch, and wait until the last one is done."""
        dtype: torch.dtype = getattr(torch, self._precision)
        for batch in batches:
            tokens, features, labels = (tensor.to(self.device) for tensor in batch)
            with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
                z_BRE = self._head(tokens, features, torch.ones_like(labels, dtype=torch.bool))
                loss = region_focal_loss(z_BRE, self._bank, labels, classifier=self._classifier)
            loss.backward()
            self._optimizer.step()
            self._optimizer.zero_grad()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


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


def cached(cache: FeatureCache, batch_size: int) -> Iterator[Batch]:
    """Yield every photo from the cache, batch by batch."""
    order = SequentialOrder(num_images=len(cache), batch_size=batch_size)
    for batch in CacheLoader(order, Assembler([cache])):
        yield batch.position_tokens, batch.features(), batch.labels


def measure(ways: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Time the ways in turn, in seconds; a first round warms up and does not count."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if number > 0:
                times[name].append(time.perf_counter() - start)
    return times


def report(times: dict[str, list[float]], num_images: Sequence[int]) -> None:
    """Print images a second, and how many times as many the second way makes."""
    rates = []
    for (name, seconds), count in zip(times.items(), num_images, strict=True):
        rates.append([count / of_round for of_round in seconds])
        print(f"{name:<8} {statistics.median(rates[-1]):10.2f} images/s")
    ratios = [ours / theirs for theirs, ours in zip(*rates, strict=True)]
    by_round = " ".join(f"{ratio:.0f}" for ratio in ratios)
    print(f"cached / online: {statistics.median(ratios):.0f} (by round: {by_round})")


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
        write_photos(Path(folder), num_images)
        config = CacheConfig(
            output_dir=str(Path(folder) / "cache"),
            annotations=AnnotationsConfig(
                format="csv", path=str(Path(folder) / "boxes.csv"), images_dir=folder
            ),
            models=models,
            templates=["none"],
            batch_size=batch_size,
            device=device,
        )
        frozen = load_frozen_models(models, device=device, batch_size=batch_size)
        job = CacheJob(config, models=frozen)
        run_job(job)
        with FeatureCache.open(config.output_dir) as cache:
            train = Training(cache, device, precision)

            def train_cached() -> None:
                for _ in range(epochs_of_cached):
                    train(cached(cache, batch_size))

            ways = {"online": lambda: train(online(job, batch_size)), "cached": train_cached}
            times = measure(ways, rounds)
    print(f"{preset} in {precision} on {frozen.encoder.device}, {batch_size} images a step")
    report(times, (num_images, num_images * epochs_of_cached))


if __name__ == "__main__":
    auto_cli(benchmark)
