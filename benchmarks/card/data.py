"""(d) From a cache to the device: the loader alone, the copies, and what training waits for."""

import logging
import statistics
import tempfile
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from card.sizes import SIZES, Size
from card.table import Row
from card.worker import Setup
from common.made_up_cache import write_cache
from common.timing import median_ratio, synchronize, timed_in_turn
from data_wait import NUM_CLASSES, WANTED_SHARE, train

from regionspot.cache import FeatureCache
from regionspot.data import CachedRegions, CacheLoader, Collator, MixedBatchSampler, ShuffledSampler

LOADER = "the loader, onto the device"
TRAINING = "training, {} images a step, bfloat16"
_BLOCK_BYTES = 1 << 26


def data(setup: Setup) -> Iterator[Row]:
    """Measure on a cache that is in memory."""
    size, device = SIZES[setup.size], torch.device(setup.device)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*LeafSpec")  # of Lightning 2.6, about itself
    with tempfile.TemporaryDirectory() as folder:
        write_cache(Path(folder), size.num_cached, num_classes=NUM_CLASSES, widths=size.widths)
        with FeatureCache.open(folder) as cache:
            yield from _loader(cache, size, device)
        for batch in size.step_batches:
            yield from _waiting(Path(folder), size, batch, device)


def _loader(cache: FeatureCache, size: Size, device: torch.device) -> Iterator[Row]:
    """Measure how fast batches come when nobody does anything with them."""
    batch = size.step_batches[0]
    passes = ShuffledSampler(np.arange(len(cache)), batch_size=batch, seed=0)
    order = MixedBatchSampler([passes], seed=0)
    on_gpu = device.type == "cuda"
    pageable = CacheLoader(order, Collator([cache]))
    pinned = CacheLoader(order, Collator([cache], pin_memory=on_gpu))
    block = torch.zeros(_BLOCK_BYTES, dtype=torch.uint8, pin_memory=on_gpu)
    times = timed_in_turn(
        {
            "pageable": partial(_go_through, pageable),
            "pinned": partial(_go_through, pinned),
            LOADER: partial(_go_through, pinned, device),
            "block": lambda: torch.empty_like(block, device=device).copy_(block, non_blocking=True),
        },
        device,
        rounds=size.rounds,
    )
    in_memory = len(cache) / statistics.median(times["pageable"])
    bytes_per_s = _BLOCK_BYTES / statistics.median(times["block"])
    limit = bytes_per_s / size.widths.feature_map_bytes
    yield Row(what="copies to the device", figure=bytes_per_s / 1e9, unit="GB/s")
    yield Row(what="the loader, into memory", figure=in_memory, unit="images/s")
    yield Row(
        what="the loader, into page-locked memory" if on_gpu else "the loader, the same again",
        figure=len(cache) / statistics.median(times["pinned"]),
        unit="images/s",
        peer=f"into memory: {in_memory:,.0f}",
        ratio=median_ratio(times["pageable"], times["pinned"]),
    )
    rate = len(cache) / statistics.median(times[LOADER])
    yield Row(
        what=LOADER,
        figure=rate,
        unit="images/s",
        peer=f"copies of feature maps alone: {limit:,.0f}",
        ratio=rate / limit,
    )
    yield Row(
        what=f"a step of {batch} images that waits for {WANTED_SHARE:.0%} of its time",
        figure=1000 * batch / rate * (1 - WANTED_SHARE),
        unit="ms",
    )


def _go_through(loader: CacheLoader, device: torch.device | None = None) -> None:
    for batch in loader:
        if device is not None:
            batch.to(device)
    if device is not None:
        synchronize(device)


def _waiting(folder: Path, size: Size, batch: int, device: torch.device) -> Iterator[Row]:
    """Train as ``train.py fit`` does, and take what training says of itself."""
    regions = CachedRegions([folder], batch_size=batch, templates="none")
    accelerator = "cuda" if device.type == "cuda" else "cpu"
    # As many images, so that batches of any size take about as long.
    num_steps = max(2, size.num_steps * size.step_batches[0] // batch)
    train(regions, accelerator, "bf16-mixed", num_steps, size.head)
    runs = [
        train(regions, accelerator, "bf16-mixed", num_steps, size.head) for _ in range(size.rounds)
    ]
    rate = statistics.median(run.images_per_s for run in runs)
    share = statistics.median(run.data_wait for run in runs)
    yield Row(what=TRAINING.format(batch), figure=rate, unit="images/s")
    yield Row(
        what=f"its time waiting for data, {batch} images a step",
        figure=100 * share,
        unit="%",
        peer=f"wanted at most: {100 * WANTED_SHARE:g}",
        ratio=share / WANTED_SHARE,
    )
