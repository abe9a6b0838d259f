"""How much memory does recognition take for 2,000 regions, 100,000 names or a very large picture?

    python benchmarks/recognize_limits.py                        # some minutes, up to 4 GB

The tiny models, each row in a process of its own, in turn. The names are combinations of three of
the tiny CLIP's words, each embedded as it is (``templates="none"``), as 81 sentences a name would
take an hour. The first row with them embeds them and stores their embeddings on disk, where later
rows find them. Pictures have 1,300 x 900 pixels except for the large one, a PNG file of one colour.

Prints for each row the peak of resident memory above that of a process which has only loaded the
models, its ratio to the bytes of what the row is about, and the seconds:

- regions: ``segment_anything``'s predictor with the same boxes, box by box, all masks kept;
- names: their embeddings (names x width x 4 bytes);
- regions and names: all scores (regions x names x 4 bytes);
- a large picture: its pixels (width x height x 3 bytes).
"""

import itertools
import logging
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jsonargparse import auto_cli
from numpy.typing import NDArray
from PIL import Image
from recognize_memory import peak_bytes, random_recognizer
from segment_anything import SamPredictor

from regionspot.backbones import FrozenModels, ModelsConfig, load_frozen_models

PHOTO_WH = (1300, 900)
TEXT_DIM = 128


@dataclass(frozen=True, kw_only=True)
class Row:
    """What is recognised."""

    title: str
    num_regions: int = 20
    num_names: int | None = None
    side_px: int | None = None
    with_masks: bool = False
    by_sam_alone: bool = False
    unit: str = ""
    unit_bytes: int = 0


def rows(num_regions: int, num_names: int, side_px: int) -> list[Row]:
    """List what is measured; the predictor comes before the rows that are compared with it."""
    many, names = f"{num_regions:,} regions", f"{num_names:,} names"
    bank, bank_bytes = "the embeddings", num_names * TEXT_DIM * 4
    return [
        Row(title="no region", num_regions=0),
        Row(title="20 regions"),
        Row(title=f"SamPredictor, {many}", num_regions=num_regions, by_sam_alone=True),
        Row(title=many, num_regions=num_regions, unit="SamPredictor"),
        Row(title=f"{many}, masks", num_regions=num_regions, with_masks=True, unit="SamPredictor"),
        Row(title=f"{names}, new", num_names=num_names, unit=bank, unit_bytes=bank_bytes),
        Row(title=f"{names}, stored", num_names=num_names, unit=bank, unit_bytes=bank_bytes),
        Row(
            title=f"{many}, {names}",
            num_regions=num_regions,
            num_names=num_names,
            unit="all scores",
            unit_bytes=num_regions * num_names * 4,
        ),
        Row(
            title=f"{side_px:,} x {side_px:,} pixels",
            side_px=side_px,
            unit="the picture",
            unit_bytes=3 * side_px**2,
        ),
    ]


def some_names(models: FrozenModels, count: int) -> list[str]:
    """Make up names from the words that the tiny CLIP knows."""
    known = models.encoder.examine_names(["egg"]).known
    triples = itertools.product(known, repeat=3)
    return [" ".join(words) for words in itertools.islice(triples, count)]


def some_boxes(count: int, size_wh: tuple[int, int]) -> NDArray[np.float32]:
    """Choose boxes of a tenth to a third of the picture's sides."""
    rng = np.random.default_rng(0)
    corners, sides = rng.uniform(0, 0.6, (count, 2)), rng.uniform(0.1, 0.3, (count, 2))
    boxes = np.concatenate([corners, corners + sides], axis=1) * [*size_wh, *size_wh]
    return boxes.astype(np.float32)


def measure(row: Row, picture: Path, num_threads: int) -> tuple[int, float]:
    """Return the bytes above the loaded models and the seconds of a row."""
    logging.disable(logging.WARNING)
    torch.set_num_threads(num_threads)
    Image.MAX_IMAGE_PIXELS = None
    models = load_frozen_models(ModelsConfig(preset="toy"))
    model = random_recognizer(models)
    names = None if row.num_names is None else some_names(models, row.num_names)
    boxes = some_boxes(row.num_regions, (row.side_px or PHOTO_WH[0], row.side_px or PHOTO_WH[1]))
    before, start = peak_bytes(), time.perf_counter()
    if row.by_sam_alone:
        predictor = SamPredictor(models.localizer.module)
        predictor.set_image(np.asarray(Image.open(picture)))
        kept: object = [predictor.predict(box=box, multimask_output=False)[0] for box in boxes]
    else:
        kept = model.recognize(
            picture, boxes, vocabulary=names, templates="none", with_masks=row.with_masks, top_k=5
        )
    del kept
    return peak_bytes() - before, time.perf_counter() - start


def benchmark(
    num_regions: int = 2_000,
    num_names: int = 100_000,
    side_px: int = 20_000,
    num_threads: int = 2,
) -> None:
    """Measure all rows once.

    Args:
        num_regions: Regions in the rows with many.
        num_names: Names in the rows with many, up to 941,192.
        side_px: Sides of the large picture in pixels.
        num_threads: Threads of torch.
    """
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["REGIONSPOT_HOME"] = temporary
        photo, large = Path(temporary) / "photo.png", Path(temporary) / "large.png"
        noise = np.random.default_rng(0).integers(0, 256, (*PHOTO_WH[::-1], 3), dtype=np.uint8)
        Image.fromarray(noise).save(photo)
        Image.new("RGB", (side_px, side_px), (200, 30, 40)).save(large)
        of_sam = 0
        for row in rows(num_regions, num_names, side_px):
            picture = large if row.side_px else photo
            # A fresh process for each, since a peak never goes down.
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                more, seconds = pool.submit(measure, row, picture, num_threads).result()
            of_sam = more if row.by_sam_alone else of_sam
            ratio = f", {more / (row.unit_bytes or of_sam):5.2f} x {row.unit}" if row.unit else ""
            print(f"{row.title:<30} {more / 1e6:6,.0f} MB{ratio}; {seconds:5.1f} s", flush=True)


if __name__ == "__main__":
    auto_cli(benchmark)
