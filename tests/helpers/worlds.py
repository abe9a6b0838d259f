"""Small images with an annotation file of one's own, and the options that cache them."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image


def draw_images(folder: Path, names: Iterable[str]) -> None:
    """Write an image of noise, 40 pixels wide and 30 high, for each name."""
    rng = np.random.default_rng(0)
    for name in names:
        pixels = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)


def write_own_csv(folder: Path, rows: Iterable[str]) -> None:
    """Write ``own.csv``, whose rows are an image's name, two corners and a label."""
    (folder / "own.csv").write_text("\n".join(["image,x1,y1,x2,y2,label", *rows]))


def write_world(folder: Path, num_images: int) -> Path:
    """Write ``0.png``, ``1.png`` and so on with ``own.csv``, a box in each; return the folder."""
    names = [f"{number}.png" for number in range(num_images)]
    draw_images(folder, names)
    boxes = [f"1,2,{9 + number % 30},20,class {number % 2}" for number in range(num_images)]
    write_own_csv(folder, [f"{name},{box}" for name, box in zip(names, boxes, strict=True)])
    return folder


def cache_options(
    annotations: Path | str,
    images_dir: Path | str,
    output_dir: Path | str,
    *more: str,
    images_per_shard: int = 3,
    batch_size: int = 2,
) -> list[str]:
    """Return what is typed after ``regionspot cache`` to cache such images by the toy towers.

    Labels may be any words, though the tiny CLIP knows few: these caches are not for naming.
    """
    return [
        *("--annotations.format", "csv", "--annotations.path", str(annotations)),
        *("--annotations.images_dir", str(images_dir), "--output_dir", str(output_dir)),
        *("--models.preset", "toy", "--templates", "[none]", "--device", "cpu"),
        *("--unknown_words", "keep"),
        *("--images_per_shard", str(images_per_shard), "--batch_size", str(batch_size), *more),
    ]
