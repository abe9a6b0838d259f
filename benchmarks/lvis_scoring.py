"""How fast are LVIS results read and scored, beside lvis's own evaluator and the fastest peer?

    python benchmarks/lvis_scoring.py
    python benchmarks/lvis_scoring.py --num_images 19809 --reference false

Makes LVIS-like ground truth (1,203 classes, 12 regions an image) and a results file of 300 boxes an
image, most of them near a region. Prints, as medians over rounds in turn: reading the file beside
msgspec's bare decode of it; scoring from the file beside hotcoco's own LVIS evaluation from the
same files, and once beside lvis (`lvis.LVISEval`); and the peak memory.
"""

import gc
import json
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import hotcoco
import msgspec
import numpy as np
import torch
from common.timing import median_ratio, timed_in_turn
from jsonargparse import auto_cli

from regionspot.scoring import LvisGroundTruth, LvisScorer, Predictions
from regionspot.scoring.lvis_reference import reference_lvis_figures

_NUM_CLASSES = 1203
_REGIONS, _DETECTIONS = 12, 300


def make_files(folder: Path, num_images: int) -> tuple[Path, Path]:
    """Write ground truth and results, and return their paths."""
    generator = np.random.default_rng(0)
    count = num_images * _REGIONS
    # Zipf-like, as in LVIS: a few classes have most regions.
    weights = 1 / np.arange(1, _NUM_CLASSES + 1)
    labels = generator.choice(_NUM_CLASSES, count, p=weights / weights.sum()) + 1
    boxes = np.hstack(
        [generator.uniform(0, 400, (count, 2)), generator.lognormal(4, 0.8, (count, 2))]
    ).round(2)
    of_image = labels.reshape(num_images, _REGIONS)
    truth = {
        "images": [
            {
                "id": image,
                "file_name": f"{image:012d}.jpg",
                "height": 640,
                "width": 640,
                "neg_category_ids": (generator.integers(1, _NUM_CLASSES + 1, 8)).tolist(),
                "not_exhaustive_category_ids": [int(of_image[image, 0])],
            }
            for image in range(num_images)
        ],
        "categories": [
            {"id": number, "name": f"class {number}", "frequency": "fcr"[number % 3]}
            for number in range(1, _NUM_CLASSES + 1)
        ],
        "annotations": [
            {
                "id": row + 1,
                "image_id": row // _REGIONS,
                "category_id": int(labels[row]),
                "bbox": boxes[row].tolist(),
                "area": float(boxes[row, 2] * boxes[row, 3]),
            }
            for row in range(count)
        ],
    }
    annotations = folder / "lvis.json"
    annotations.write_text(json.dumps(truth))
    rows = np.arange(num_images * _DETECTIONS)
    near = (rows // _DETECTIONS) * _REGIONS + generator.integers(0, _REGIONS, len(rows))
    is_right = generator.random(len(rows)) < 0.3
    results = Predictions(
        image_ids=rows // _DETECTIONS,
        category_ids=np.where(
            is_right, labels[near], generator.integers(1, _NUM_CLASSES + 1, len(rows))
        ),
        boxes_xywh=(boxes[near] * generator.uniform(0.9, 1.1, (len(rows), 4))).round(3),
        scores=generator.random(len(rows)).round(6),
    )
    results.write_lvis_json(folder / "results.json")
    return annotations, folder / "results.json"


def bare_decode(content: bytes) -> object:
    """Decode JSON by msgspec without types, and without searching for cycles meanwhile."""
    gc.disable()
    try:
        return msgspec.json.decode(content)
    finally:
        gc.enable()


def score_by_hotcoco(annotations: Path, results: Path) -> object:
    """Evaluate files as hotcoco's own documentation does."""
    truth = hotcoco.COCO(str(annotations))
    evaluation = hotcoco.LVISeval(truth, hotcoco.LVISResults(truth, str(results)), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval


def score_by_regionspot(annotations: Path, results: Path) -> dict[str, float | None]:
    """Evaluate files as ``evaluate.py --results`` does."""
    scorer = LvisScorer(LvisGroundTruth.read(annotations))
    return scorer.score(Predictions.read_lvis_json(results)).figures()


def benchmark(*, num_images: int = 5000, repeats: int = 3, reference: bool = True) -> None:
    """Compare the ways.

    Args:
        num_images: Images; LVIS v1 val has 19,809, minival 5,000.
        repeats: Rounds, after one that does not count.
        reference: Whether to run lvis itself, once: it takes minutes.
    """
    with TemporaryDirectory() as name:
        annotations, results = make_files(Path(name), num_images)
        content = results.read_bytes()
        scorer = LvisScorer(LvisGroundTruth.read(annotations))
        predictions = Predictions.read_lvis_json(results)
        ways: dict[str, Callable[[], object]] = {
            "read: msgspec's bare decode": lambda: bare_decode(content),
            "read: regionspot": lambda: Predictions.read_lvis_json(results),
            "score columns: regionspot": lambda: scorer.score(predictions),
            "from files: regionspot": lambda: score_by_regionspot(annotations, results),
            "from files: hotcoco": lambda: score_by_hotcoco(annotations, results),
        }
        times = timed_in_turn(ways, torch.device("cpu"), rounds=repeats)
        peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{num_images:,} images, {len(predictions):,} results, {len(content) / 1e6:.0f} MB")
        for way, seconds in times.items():
            print(f"{way:<30} {statistics.median(seconds):>8.2f} s")
        read = median_ratio(times["read: regionspot"], times["read: msgspec's bare decode"])
        peer = median_ratio(times["from files: hotcoco"], times["from files: regionspot"])
        print(f"reading takes {read:.2f} x the time of msgspec's bare decode")
        print(f"from files {peer:.2f} x as fast as hotcoco alone; peak memory {peak_gb:.2f} GB")
        if reference:
            start = time.perf_counter()
            theirs = reference_lvis_figures(annotations, predictions)
            theirs_s = time.perf_counter() - start
            ratio = theirs_s / statistics.median(times["from files: regionspot"])
            ours = scorer.score(predictions)
            print(f"lvis: {theirs_s:.0f} s, {ratio:.0f} x the time of regionspot from files")
            print(f"AP {ours.AP} here, {100 * theirs['AP']} by lvis")


if __name__ == "__main__":
    auto_cli(benchmark)
