"""How often are names by example and unknown regions right, on what ``make quickstart`` leaves?

    python benchmarks/names_by_example.py

The names of the toy world's ``toy365`` are given by example: the first regions with each in that
cache. The other names are given as words. Regions of the validation images are named:

- by examples alone, among the names of ``toy365``, and by the same names as words;
- by examples beside words, among all names, and by all names as words.

Then every second name is given as a word, and regions of the other names should be unknown.
Prints shares of right names.
"""

from collections.abc import Collection
from pathlib import Path

import numpy as np
from jsonargparse import auto_cli

from regionspot import FeatureCache, Regions, RegionSpot


def benchmark(*, run: Path = Path("runs/quickstart"), num_images: int = 500) -> None:
    """Measure and print.

    Args:
        run: Folder of a quickstart.
        num_images: Number of validation images, the first ones.
    """
    if not run.is_dir():
        print(f"no quickstart at {run}: run make quickstart")
        return
    model = RegionSpot.from_pretrained(run, device="cpu")
    trained = FeatureCache.open(run / "cache" / "toy365")
    val = FeatureCache.open(run / "cache" / "val")
    samples = [val.sample(position) for position in range(num_images)]
    paths = [run / "world" / "val" / f"{sample.image_id:012d}.jpg" for sample in samples]
    images = [model.encode_image(path) for path in paths]
    boxes = [np.array(sample.boxes_xyxy) for sample in samples]
    every = val.manifest.vocabulary.names
    true = [every[label] for sample in samples for label in sample.labels.tolist()]

    def named(**options: object) -> list[Regions]:
        return model.recognize(images, boxes, with_masks=False, **options)  # type: ignore[call-overload]

    calibration = model.calibrate(trained)
    words = named(vocabulary=every)
    for number in (1, 5, 20):
        examples = model.prototypes_from_cache(trained, max_examples=number)
        shown = examples.vocabulary.names
        rest = [name for name in every if name not in shown]
        alone = named(examples=examples)
        both = named(examples=examples, vocabulary=rest, calibration=calibration)
        print(
            f"{number:2} examples alone: {right(alone, true, shown):.1%}"
            f" (the names as words {right(named(vocabulary=shown), true, shown):.1%});"
            f" beside {len(rest)} words: {right(both, true, shown):.1%}, the words"
            f" {right(both, true, rest):.1%} (all as words {right(words, true, shown):.1%},"
            f" {right(words, true, rest):.1%})"
        )
    half = every[::2]
    for precision in (0.8, 0.9):
        calibration = model.calibrate(val, vocabulary=half, target_precision=precision)
        found = named(vocabulary=half, unknown="background", calibration=calibration)
        labels = [label for regions in found for label in regions.labels]
        pairs = list(zip(labels, true, strict=True))
        given = [label == name for label, name in pairs if label != "background"]
        unknown = [label == "background" for label, name in pairs if name not in half]
        print(
            f"calibrated for {precision:.0%}: {np.mean(given):.1%} of given names are right,"
            f" {right(found, true, half):.1%} of regions with one of the names get it,"
            f" {np.mean(unknown):.1%} of the others are unknown"
        )


def right(found: list[Regions], true: list[str], among: Collection[str]) -> float:
    """Return the share of right labels of regions whose true name is among some."""
    labels = [label for regions in found for label in regions.labels]
    pairs = zip(labels, true, strict=True)
    return float(np.mean([label == name for label, name in pairs if name in among]))


if __name__ == "__main__":
    auto_cli(benchmark, as_positional=False)
