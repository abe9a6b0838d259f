"""Example pictures for the page, drawn by the toy world."""

from pathlib import Path

import numpy as np

from regionspot.core.text import needs_extra
from regionspot.toy import ClassMix, sample_scene, vocabulary, zipf

with needs_extra("demo"):
    from PIL import Image

_STREAM = 0x7005
"""First word of the seeds: pictures that are in no toy world."""

_FACTOR = 4
"""Enlargement: scenes are too small to draw boxes over."""


def write_toy_pictures(folder: Path, *, count: int = 6) -> list[Path]:
    """Draw scenes of the toy world, always the same, as PNG files.

    Args:
        folder: Where to write them; it exists.
        count: Number of pictures.
    """
    names = vocabulary()
    mix = ClassMix(names=names, probabilities=zipf(len(names), 0.35), num_objects=(4, 6))
    paths = []
    for number in range(count):
        scene = sample_scene(np.random.default_rng([_STREAM, number]), mix, min_objects=3)
        paths.append(folder / f"toy_{number + 1}.png")
        picture = Image.fromarray(scene.image)
        enlarged = (picture.width * _FACTOR, picture.height * _FACTOR)
        picture.resize(enlarged, Image.Resampling.NEAREST).save(paths[-1])
    return paths
