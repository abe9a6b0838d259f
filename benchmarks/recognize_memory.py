"""How much memory does recognising a large picture take, masks included, against SAM's predictor?

    python benchmarks/recognize_memory.py                        # some minutes, up to 5 GB
    python benchmarks/recognize_memory.py --size_wh '[4000,3000]' --num_boxes 100

A picture of 10,000 x 8,000 pixels, a toy image enlarged, as a JPEG file; 20 boxes; the tiny models,
so that the picture's own memory shows. Each way in a process of its own, in turn:

- names only: `RegionSpot.recognize` with ``with_masks=False``;
- masks not touched: `RegionSpot.recognize`;
- mask by mask: the same, then ``region.mask`` of every region, none of which is kept;
- drawn: the same, then ``regions.plot()``;
- all masks: the same, then ``regions.masks``, an array of all at the picture's size;
- SamPredictor: the peer, ``segment_anything`` alone: ``predict`` box by box, all masks kept.

Prints for each way the peak of resident memory (VmHWM), what it is above that of a process which
has only loaded the models, in multiples of the picture's bytes (width x height x 3), the seconds,
and the ratio of that to the peer's.
"""

import logging
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jsonargparse import auto_cli
from numpy.typing import NDArray
from PIL import Image
from segment_anything import SamPredictor

from regionspot.backbones import FrozenModels, ModelsConfig, load_frozen_models
from regionspot.inference import Regions, RegionSpot
from regionspot.model import FusionHead, HeadCard, HeadSpec, RegionClassifier, TrainedHead
from regionspot.toy import generate_world

NAMES = ("plain yellow ring", "dotted red heart", "sea egg")


@dataclass(frozen=True)
class Task:
    """What a process is told."""

    picture: Path
    boxes_xyxy: NDArray[np.float32]
    num_threads: int


def random_recognizer(models: FrozenModels) -> RegionSpot:
    """Build a recogniser whose small head nobody trained: the memory is the same."""
    head = FusionHead(
        HeadSpec(
            token_dim=models.localizer.token_dim,
            feature_dim=models.encoder.info.width,
            text_dim=models.encoder.info.text_dim,
            num_blocks=1,
            num_heads=4,
            ffn_dim=32,
        )
    )
    card = HeadCard(
        head=head.spec,
        scale=20.0,
        bias=0.0,
        fingerprint=models.fingerprint().to_dict(),
        vocabulary=NAMES,
        templates="single",
    )
    classifier = RegionClassifier(card.scale, card.bias)
    return RegionSpot(TrainedHead(head=head, classifier=classifier, card=card), models)


def recognize(models: FrozenModels, task: Task, *, with_masks: bool = True) -> Regions:
    """Name the regions."""
    model = random_recognizer(models)
    return model.recognize(task.picture, boxes=task.boxes_xyxy, with_masks=with_masks)


def sam_predictor(models: FrozenModels, task: Task) -> object:
    """Ask SAM alone for the masks of the boxes, as its own examples do."""
    predictor = SamPredictor(models.localizer.module)
    predictor.set_image(np.asarray(Image.open(task.picture).convert("RGB")))
    return [predictor.predict(box=box, multimask_output=False)[0] for box in task.boxes_xyxy]


PEER = "SamPredictor"
WAYS: dict[str, Callable[[FrozenModels, Task], object]] = {
    "names only": lambda models, task: recognize(models, task, with_masks=False),
    "masks not touched": recognize,
    "mask by mask": lambda models, task: [np.any(x.mask) for x in recognize(models, task)],
    "drawn": lambda models, task: recognize(models, task).plot(),
    "all masks": lambda models, task: recognize(models, task).masks,
    PEER: sam_predictor,
}


def peak_bytes() -> int:
    """Return the highest resident memory of this process so far."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(next(x.split()[1] for x in status.splitlines() if x.startswith("VmHWM")))


def measure(way: str, task: Task) -> tuple[int, int, float]:
    """Return the peak before the picture is opened, that at the end, and the seconds between."""
    logging.disable(logging.WARNING)
    torch.set_num_threads(task.num_threads)
    models = load_frozen_models(ModelsConfig(preset="toy"))
    before, start = peak_bytes(), time.perf_counter()
    WAYS[way](models, task)
    return before, peak_bytes(), time.perf_counter() - start


def prepare(
    folder: Path, size_wh: tuple[int, int], num_boxes: int
) -> tuple[Path, NDArray[np.float32]]:
    """Write the picture, and choose boxes of a tenth to a third of its sides."""
    generate_world(folder / "world", seed=1, num_val=1, num_train=1)
    small = Image.open(next((folder / "world" / "val").glob("*.jpg")))
    path = folder / "large.jpg"
    small.resize(size_wh, Image.Resampling.BICUBIC).save(path)
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 0.6, (num_boxes, 2))
    sides = rng.uniform(0.1, 0.3, (num_boxes, 2))
    boxes = np.concatenate([corners, corners + sides], axis=1) * [*size_wh, *size_wh]
    return path, boxes.astype(np.float32)


def benchmark(
    size_wh: tuple[int, int] = (10_000, 8_000),
    num_boxes: int = 20,
    repeats: int = 1,
    num_threads: int = 2,
) -> None:
    """Measure all ways.

    Args:
        size_wh: Width and height of the picture in pixels.
        num_boxes: Boxes in it.
        repeats: How often each way is measured, in turn; the median counts.
        num_threads: Threads of torch.
    """
    found: dict[str, list[tuple[int, int, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as temporary:
        picture, boxes = prepare(Path(temporary), size_wh, num_boxes)
        task = Task(picture=picture, boxes_xyxy=boxes, num_threads=num_threads)
        for _ in range(repeats):
            for way, values in found.items():
                # A fresh process for each, since a peak never goes down.
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                    values.append(pool.submit(measure, way, task).result())
    picture_bytes = 3 * size_wh[0] * size_wh[1]
    medians = {
        way: tuple(statistics.median(column) for column in zip(*values, strict=True))
        for way, values in found.items()
    }
    peer = medians[PEER][1] - medians[PEER][0]
    print(f"{size_wh[0]} x {size_wh[1]} pixels, {picture_bytes / 1e6:.0f} MB; {num_boxes} boxes")
    print(f"the models alone: {medians[PEER][0] / 1e6:,.0f} MB")
    for way, (before, peak, seconds) in medians.items():
        more = peak - before
        print(
            f"{way:<18} peak {peak / 1e6:6,.0f} MB; above the models {more / 1e6:6,.0f} MB,"
            f" {more / picture_bytes:5.2f} x the picture, {more / peer:5.2f} x {PEER};"
            f" {seconds:5.1f} s"
        )


if __name__ == "__main__":
    auto_cli(benchmark)
