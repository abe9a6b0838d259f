"""What does it cost a caching job on a CPU that the machine does something else as well?

    python benchmarks/busy_core.py
    python benchmarks/busy_core.py --preset bl --num_images 8 --batch_size 1 --repeats 2

Toy images through the whole caching job with the tiny towers, or with full-size ones of random
weights (which change no speed). In turn, several times, with all cores free and with one of them
taken by an endless loop:

- one batch: torch splits each operation among its threads (how caching ran before);
- regionspot: as many batches at once as there are threads, each with one thread.

Prints the median images per second of each, the ratio of each round, and whether the caches have
the same bytes (with one thread an operation may add in another order than with several).
"""

import hashlib
import itertools
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch
from jsonargparse import auto_cli

from regionspot.backbones import FrozenModels, ModelsConfig
from regionspot.extraction import AnnotationsConfig, CacheConfig, CacheSummary, cache_features
from regionspot.toy import generate_world

WAYS = ("one batch", "regionspot")
CORES = ("free", "one busy")


@contextmanager
def one_busy_core() -> Iterator[None]:
    """Keep one core busy in a block."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


def one_batch(_models: FrozenModels, _num_batches: int | None = None) -> tuple[int, int]:
    """Stand in for `FrozenModels.workers`: one worker that has all threads."""
    return 1, torch.get_num_threads()


def images_per_s(config: CacheConfig, way: str) -> float:
    """Run a caching job."""
    workers = one_batch if way == "one batch" else FrozenModels.workers
    with mock.patch.object(FrozenModels, "workers", workers):
        summary = cache_features(config)
    if not isinstance(summary, CacheSummary):
        raise TypeError("the job made only a part of the cache")
    return summary.num_images / summary.seconds


def shards_sha256(output_dir: Path) -> str:
    """Return a digest of all shards."""
    digest = hashlib.sha256()
    for shard in sorted((output_dir / "shards").glob("*.tar")):
        digest.update(shard.read_bytes())
    return digest.hexdigest()


def benchmark(
    preset: str = "toy", num_images: int = 500, batch_size: int = 8, repeats: int = 3
) -> None:
    """Measure.

    Args:
        preset: The frozen models; all but "toy" have random weights.
        num_images: Images of a job.
        batch_size: Images in a batch.
        repeats: Rounds; the median counts.
    """
    weights = None if preset == "toy" else "random"
    rates: dict[tuple[str, str], list[float]] = {key: [] for key in itertools.product(CORES, WAYS)}
    digests: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as temporary:
        world = Path(temporary) / "world"
        generate_world(world, seed=1, num_val=num_images, num_train=1)
        for number in range(repeats):
            for cores, way in rates:
                output_dir = Path(temporary) / f"{number} {cores} {way}"
                config = CacheConfig(
                    output_dir=str(output_dir),
                    annotations=AnnotationsConfig(
                        format="lvis", path=str(world / "val.json"), images_dir=str(world)
                    ),
                    models=ModelsConfig(preset=preset, sam_weights=weights, clip_weights=weights),
                    templates=["none"],
                    unknown_words="keep",
                    batch_size=batch_size,
                    device="cpu",
                )
                if cores == "free":
                    rates[cores, way].append(images_per_s(config, way))
                else:
                    with one_busy_core():
                        rates[cores, way].append(images_per_s(config, way))
                digests[way] = shards_sha256(output_dir)
    print(
        f"{preset}, {num_images} images, batches of {batch_size}, {torch.get_num_threads()} cores"
    )
    for cores in CORES:
        before, ours = (rates[cores, way] for way in WAYS)
        ratios = [our / old for our, old in zip(ours, before, strict=True)]
        print(
            f"cores {cores}: one batch {statistics.median(before):.3g} images/s, regionspot"
            f" {statistics.median(ours):.3g} images/s, ratio {statistics.median(ratios):.2f}"
            f" ({', '.join(f'{ratio:.2f}' for ratio in ratios)})"
        )
    same = digests["one batch"] == digests["regionspot"]
    print(f"bytes of both ways: {'the same' if same else 'not the same'}")


if __name__ == "__main__":
    auto_cli(benchmark)
