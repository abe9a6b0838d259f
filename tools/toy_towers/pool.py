"""The pool of scenes that the two towers are trained on, kept in memory-mapped arrays.

The pool draws from its own random streams: no image of any world (`regionspot.toy.world`) can be
in it, whatever the seeds. Scenes are squashed to one size, as both towers see them.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from regionspot.toy import SETTINGS, ClassMix, sample_scene, vocabulary, zipf

_LOG = logging.getLogger(__name__)

POOL_SIZE = 128
"""Height and width of pool images, in pixels."""
MAX_OBJECTS = 6
NUM_HELD_OUT = 600
"""The pool's last images never train; probes and progress logs use them."""
_STREAM = 0x7001
"""First word of every seed sequence here; worlds use another one."""
_CHUNK = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """N scenes of `POOL_SIZE` squared pixels. Memory-mapped, read-only."""

    images: NDArray[np.uint8]
    """RGB, (N, 128, 128, 3)."""
    instances: NDArray[np.uint8]
    """Object of each pixel, (N, 128, 128); 0 is background, ``i + 1`` object ``i``."""
    classes: NDArray[np.int16]
    """Class of each object, (N, 6), indexes ``vocabulary()``; -1 where there is none."""
    settings: NDArray[np.int16]
    """Setting of each scene, (N,), indexes ``regionspot.toy.names.SETTINGS``."""


def generate_pool(
    output_dir: Path, *, num_images: int = 30_000, seed: int = 1, num_processes: int = 1
) -> None:
    """Render the pool; the result does not depend on ``num_processes``.

    Half of the scenes draw classes uniformly and half from a mild Zipf law; 3 to 6 objects each.

    Args:
        output_dir: Folder for the four ``.npy`` files and ``pool.json``; created.
        num_images: Number of scenes; rounded up to a multiple of 100.
        seed: Fixes every scene.
        num_processes: Processes that render.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    # While the arrays change, the folder must not look finished.
    (output_dir / "pool.json").unlink(missing_ok=True)
    num_chunks = -(-num_images // _CHUNK)
    total = num_chunks * _CHUNK
    side = POOL_SIZE
    arrays = {
        "images": _create(output_dir / "images.npy", (total, side, side, 3), np.uint8),
        "instances": _create(output_dir / "instances.npy", (total, side, side), np.uint8),
        "classes": _create(output_dir / "classes.npy", (total, MAX_OBJECTS), np.int16),
        "settings": _create(output_dir / "settings.npy", (total,), np.int16),
    }
    for chunk, rendered in enumerate(_render(num_chunks, seed, num_processes)):
        rows = slice(chunk * _CHUNK, (chunk + 1) * _CHUNK)
        for name, values in zip(arrays, rendered, strict=True):
            arrays[name][rows] = values
        _LOG.info("pool: %d of %d images", rows.stop, total)
    for array in arrays.values():
        array.flush()
    # Written last: a pool without it is unfinished.
    facts = {"num_images": total, "seed": seed, "size": side}
    (output_dir / "pool.json").write_text(json.dumps(facts) + "\n")


def open_pool(pool_dir: Path) -> Pool:
    """Map a pool that `generate_pool` has written.

    Args:
        pool_dir: Folder with ``pool.json``.

    Returns:
        The pool, read-only.

    Raises:
        FileNotFoundError: The pool is missing or was not finished.
    """
    if not (pool_dir / "pool.json").exists():
        raise FileNotFoundError(
            f"{pool_dir} holds no finished pool (no pool.json). Make one with"
            f" `PYTHONPATH=tools python -m toy_towers.pool --output_dir {pool_dir}`."
        )
    return Pool(
        images=np.load(pool_dir / "images.npy", mmap_mode="r"),
        instances=np.load(pool_dir / "instances.npy", mmap_mode="r"),
        classes=np.load(pool_dir / "classes.npy"),
        settings=np.load(pool_dir / "settings.npy"),
    )


def _create(path: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> np.memmap:
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)


def _render(
    num_chunks: int, seed: int, num_processes: int
) -> Iterator[Sequence[NDArray[np.generic]]]:
    """Render the chunks in order, in this process or in several others."""
    work = partial(_render_chunk, seed=seed)
    if num_processes == 1:
        yield from map(work, range(num_chunks))
        return
    with ProcessPoolExecutor(num_processes, mp_context=get_context("spawn")) as executor:
        yield from executor.map(work, range(num_chunks))


def _render_chunk(chunk: int, *, seed: int) -> Sequence[NDArray[np.generic]]:
    """Render the scenes ``chunk * 100`` and on; arrays in the order of `Pool`'s fields."""
    cv2.setNumThreads(0)
    names = vocabulary()
    index = {name: i for i, name in enumerate(names)}
    mixes = [
        ClassMix(names=names, probabilities=zipf(len(names), s), num_objects=(3, 6), repeat=0.1)
        for s in (0.0, 0.4)
    ]
    images = np.zeros((_CHUNK, POOL_SIZE, POOL_SIZE, 3), np.uint8)
    instances = np.zeros((_CHUNK, POOL_SIZE, POOL_SIZE), np.uint8)
    classes = np.full((_CHUNK, MAX_OBJECTS), -1, np.int16)
    settings = np.zeros(_CHUNK, np.int16)
    for row in range(_CHUNK):
        rng = np.random.default_rng([_STREAM, seed, chunk * _CHUNK + row])
        scene = sample_scene(rng, mixes[int(rng.integers(2))], min_objects=2)
        images[row] = squash(scene.image, POOL_SIZE)
        target = (POOL_SIZE, POOL_SIZE)
        instances[row] = cv2.resize(scene.instances, target, interpolation=cv2.INTER_NEAREST_EXACT)
        classes[row, : len(scene.names)] = [index[name] for name in scene.names]
        settings[row] = SETTINGS.index(scene.setting)
    return images, instances, classes, settings


def squash(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize to a square without keeping the aspect, as CLIP's preprocessing here does (by PIL).

    Args:
        image: RGB, (H, W, 3).
        size: Height and width wanted, in pixels.

    Returns:
        RGB, (size, size, 3).
    """
    is_larger = min(image.shape[:2]) > size
    how = cv2.INTER_AREA if is_larger else cv2.INTER_LINEAR
    return cv2.resize(image, (size, size), interpolation=how).astype(np.uint8)


def main() -> None:
    """Render a pool from the command line; see ``--help``."""
    from jsonargparse import auto_cli

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    auto_cli(generate_pool, as_positional=False)


if __name__ == "__main__":
    main()
