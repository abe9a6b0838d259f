"""What does the focal loss cost with 13,029 classes, beside its two matrix products alone?

    python benchmarks/focal_loss.py
    python benchmarks/focal_loss.py --device cuda

Loss and gradient of one batch's regions over V3Det's vocabulary, in turn, several times: only the
two products that no way can do without (embeddings x bank, slopes x bank); torchvision's loss on
one-hot targets; and ours. Prints the median time, the ratio to the two products, and the memory
that one call needs on top of its inputs, each measured in a process of its own.
"""

import ctypes
import multiprocessing
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from common.timing import median_ratio, timed_in_turn
from jsonargparse import auto_cli
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss as torchvision_focal_loss

from regionspot.model import RegionClassifier, region_focal_loss

Way = Callable[[Tensor, Tensor, Tensor, RegionClassifier], None]


def two_products(z: Tensor, bank: Tensor, _labels: Tensor, _classifier: RegionClassifier) -> None:
    """Multiply as forward and backward pass do, and nothing else."""
    rows = z.detach().flatten(0, 1)
    torch.mm(torch.mm(rows, bank.T), bank)


def one_hot(z: Tensor, bank: Tensor, labels: Tensor, classifier: RegionClassifier) -> None:
    """Hold logits and targets in whole."""
    logits = classifier(z, bank)
    targets = F.one_hot(labels, len(bank)).float()
    loss = torchvision_focal_loss(logits, targets, alpha=0.25, gamma=2.0, reduction="sum")
    (loss / labels.shape[1]).backward()


def regionspot(z: Tensor, bank: Tensor, labels: Tensor, classifier: RegionClassifier) -> None:
    """Hold neither."""
    region_focal_loss(z, bank, labels, classifier=classifier).backward()


WAYS: dict[str, Way] = {"two products": two_products, "one-hot": one_hot, "regionspot": regionspot}


def make_batch(
    num_regions: int, num_classes: int, device: str
) -> tuple[Tensor, Tensor, Tensor, RegionClassifier]:
    """Return embeddings (16, R / 16, 768), bank (C, 768), labels, and the toy recipe's scale."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(16, num_regions // 16, 768, generator=generator).to(device)
    bank = F.normalize(torch.randn(num_classes, 768, generator=generator), dim=-1).to(device)
    labels = torch.randint(0, num_classes, z.shape[:2], generator=generator).to(device)
    classifier = RegionClassifier(20.0, -8.0).to(device)
    return z.requires_grad_(), bank, labels, classifier


def extra_mb(name: str, num_regions: int, num_classes: int, device: str, threads: int) -> float:
    """Return by how many MB the peak memory of this process grows through one call."""
    torch.set_num_threads(threads)
    WAYS[name](*make_batch(16, 64, device))  # loads what is loaded once
    batch = make_batch(num_regions, num_classes, device)
    batch[0].grad = torch.zeros_like(batch[0])
    if device == "cpu":
        ctypes.CDLL(None).malloc_trim(0)  # what earlier work has freed would be used again unseen
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is held now
        before = _peak_mb()
        WAYS[name](*batch)
        return _peak_mb() - before
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    WAYS[name](*batch)
    return (torch.cuda.max_memory_allocated() - held) / 2**20


def _peak_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def benchmark(
    num_regions: int = 256,
    num_classes: int = 13_029,
    repeats: int = 15,
    device: str = "cpu",
    threads: int = 1,
) -> None:
    """Compare the three ways.

    Args:
        num_regions: Regions of the batch, a multiple of 16.
        num_classes: Classes of the vocabulary.
        repeats: How often each way is timed, in turn, after one round that does not count.
        device: Where it runs.
        threads: CPU threads.
    """
    torch.set_num_threads(threads)
    batch = make_batch(num_regions, num_classes, device)
    ways = {name: partial(way, *batch) for name, way in WAYS.items()}
    times = timed_in_turn(ways, torch.device(device), rounds=repeats)
    base = times["two products"]
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        memory = {
            name: pool.apply(extra_mb, (name, num_regions, num_classes, device, threads))
            for name in WAYS
        }
    print(f"{num_regions} regions, {num_classes} classes, {device}, {threads} threads")
    for name, seconds in times.items():
        ratio = median_ratio(seconds, base)
        print(
            f"{name:<14} {1000 * statistics.median(seconds):>7.1f} ms  {ratio:>5.2f} x the two"
            f" products  {memory[name]:>6.1f} MB on top, 1 / {memory['one-hot'] / memory[name]:.1f}"
            " of one-hot"
        )


if __name__ == "__main__":
    auto_cli(benchmark)
