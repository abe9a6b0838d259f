"""What share of a training step is spent waiting for data?

    python benchmarks/data_wait.py
    python benchmarks/data_wait.py --accelerator cuda --precision bf16-mixed --num_images 6000

The whole of training as ``train.py fit`` runs it (Lightning, the loader, the head at BL sizes), on
a made-up cache that is warm: 526 KB of feature map an image, 1 to 16 regions, 365 classes. Prints
the share that training itself reports as ``train/data_wait``, which 5 % at most is wanted of; and,
since it depends on how fast the device is: how many images a second the loader gives when nobody
does anything with them, and the step of a batch at which waiting would reach 5 %.
"""

import logging
import shutil
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import lightning.pytorch as pl
import torch
from common.made_up_cache import BATCH_SIZE, write_cache
from jsonargparse import auto_cli

from regionspot.data import CachedRegions
from regionspot.training import HeadOptions, ImagesPerSecond, RegionSpotModule

NUM_CLASSES, WANTED_SHARE = 365, 0.05
PAPER_HEAD = HeadOptions()


def loader_images_per_s(data: CachedRegions) -> float:
    """Return what the loader gives to one who does nothing with it, in an epoch."""
    start = time.perf_counter()
    num_images = sum(len(batch) for batch in data.train_dataloader())
    return num_images / (time.perf_counter() - start)


def train(
    data: CachedRegions,
    accelerator: str,
    precision: str,
    num_steps: int,
    head: HeadOptions = PAPER_HEAD,
) -> ImagesPerSecond:
    """Train for some steps, and return what training says of itself."""
    throughput = ImagesPerSecond()
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            default_root_dir=folder,
            accelerator=accelerator,
            devices=1,
            precision=precision,  # type: ignore[arg-type] # one of Lightning's words
            max_steps=num_steps,
            limit_val_batches=0,
            gradient_clip_val=1.0,
            callbacks=[throughput],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(RegionSpotModule(data.spec, head=head), datamodule=data)
    return throughput


def benchmark(
    num_images: int = 600,
    num_steps: int = 40,
    rounds: int = 3,
    accelerator: str = "cpu",
    precision: str = "32-true",
) -> None:
    """Measure, and print what was seen.

    Args:
        num_images: Images of the cache; 530 KB each.
        num_steps: Steps of a round.
        rounds: How often the head is trained, each time from its beginning.
        accelerator: Where it is trained, in Lightning's words.
        precision: In which precision, in Lightning's words.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*LeafSpec")  # of Lightning 2.6, about itself
    folder = Path(tempfile.mkdtemp())
    try:
        write_cache(folder, num_images, num_classes=NUM_CLASSES)
        data = CachedRegions([folder], batch_size=BATCH_SIZE, templates="none")
        loader_images_per_s(data)  # from here on all is in memory, and all images are checked
        shares, step_rates, loader_rates = [], [], []
        for _ in range(rounds):
            loader_rates.append(loader_images_per_s(data))
            throughput = train(data, accelerator, precision, num_steps)
            shares.append(throughput.data_wait)
            step_rates.append(throughput.images_per_s)
    finally:
        shutil.rmtree(folder)
    name = torch.cuda.get_device_name() if accelerator == "cuda" else "CPU"
    step_rate, loader_rate = statistics.median(step_rates), statistics.median(loader_rates)
    least_ms = 1000 * BATCH_SIZE / loader_rate * (1 - WANTED_SHARE)
    by_round = " ".join(f"{share:.2%}" for share in shares)
    print(f"training, {precision} on {name}: {step_rate:,.0f} images/s")
    print(f"of its time waiting for data: {statistics.median(shares):.2%} (by round: {by_round})")
    print(
        f"the loader alone: {loader_rate:,.0f} images/s, {loader_rate / step_rate:,.0f} x as many"
    )
    print(f"so a step of {BATCH_SIZE} images may take as little as {least_ms:.1f} ms")


if __name__ == "__main__":
    auto_cli(benchmark)
