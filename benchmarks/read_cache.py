"""How fast are training batches, against a plain copy of the same bytes and against other loaders?

    python benchmarks/read_cache.py
    python benchmarks/read_cache.py --num_images 6000 --cold true

A cache at BL sizes (526 KB of feature map an image, 1 to 16 regions) is read in shuffled order into
padded batches of 16, in turn, several times, in one process, from memory that is warm:

- memcpy: NumPy copies the feature maps alone, in random order, from one block of memory into one
  batch that stays in the processor's cache. No loader can be faster, short of not copying;
- memcpy, 4 batches: the same into four batches in turn, as many as our loader has in use (one at
  its consumer's, one ready, two being made). Together they exceed most processors' caches, so that
  what is written goes to memory;
- regionspot: our collator in this thread; and our loader, with its two threads that work ahead,
  as training uses it;
- webdataset: its own reader and decoder on our shards, shuffled by shard and in a buffer of 100;
- litdata: the same samples in litdata's own format, shuffled.

The others collate as a user would write it and run without workers, with one and with two worker
processes; the best of the three counts. Prints medians in images a second, and the ratio to memcpy
by round. With ``--cold true`` every round first drops the files from the page cache (which the
system grants where they are not in use), and the limit is what ``cat`` would take to read them; we
then read in shuffled order, and in that of a windowed shuffle of 2 shards.
"""

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import litdata
import numpy as np
import torch
import webdataset
from common.made_up_cache import BATCH_SIZE, BL, made_up_manifest, made_up_sample
from jsonargparse import auto_cli
from litdata.streaming.writer import BinaryWriter
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from regionspot.cache import (
    FeatureCache,
    build_index,
    shards_path,
    write_manifest,
    write_shard,
)
from regionspot.data import CacheLoader, Collator, MixedBatchSampler, ShardWindows, ShuffledSampler

ARRAYS = ("feature_map", "position_tokens", "boxes_xyxy", "labels", "box_scores")
Sample = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The same samples, stored for every way."""

    cache_dir: Path
    litdata_dir: Path
    num_images: int

    @property
    def files(self) -> list[Path]:
        """All files that are read."""
        folders = (shards_path(self.cache_dir), self.litdata_dir)
        return [path for folder in folders for path in folder.iterdir() if path.is_file()]


def write_samples(folder: Path, num_images: int) -> Setting:
    """Write the same samples as a feature cache and in litdata's format."""
    setting = Setting(
        cache_dir=folder / "cache", litdata_dir=folder / "litdata", num_images=num_images
    )
    manifest = made_up_manifest(num_images, num_classes=2)
    write_manifest(setting.cache_dir, manifest)
    setting.litdata_dir.mkdir(parents=True)
    writer = BinaryWriter(str(setting.litdata_dir), chunk_bytes="64MB")
    for shard in range(manifest.plan.num_shards):
        samples = [made_up_sample(number) for number in manifest.plan.images_of(shard)]
        write_shard(setting.cache_dir, shard, samples)
        for sample in samples:
            stored = {name: getattr(sample, name) for name in ARRAYS}
            writer.add_item(sample.image_id, stored | {"image_id": sample.image_id})
    build_index(setting.cache_dir)
    writer.done()
    writer.merge()
    return setting


class Memcpy:
    """Feature maps in one block of memory, copied in random order into batches in turn."""

    def __init__(self, source: NDArray[np.float16], *, num_batches: int) -> None:
        self._source = source
        self._order = np.random.default_rng(0).permutation(len(source)).tolist()
        self._rows = np.empty(
            (num_batches * BATCH_SIZE, BL.num_tokens * BL.feature_dim), np.float16
        )

    def __call__(self) -> int:
        """Copy all, once."""
        for place, image in enumerate(self._order):
            self._rows[place % len(self._rows)] = self._source[image]
        return len(self._order)


class Cat:
    """What a disk gives to one who reads all files from front to end."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        self._buffer = bytearray(1 << 20)

    def __call__(self) -> int:
        """Read all, once."""
        for path in self._files:
            with path.open("rb", buffering=0) as file:
                while file.readinto(self._buffer):
                    pass
        return 0


class OurLoader:
    """Batches of a cache, from this thread or from the loader's own, epoch after epoch."""

    def __init__(self, setting: Setting, *, working_ahead: bool, window: int | None = None) -> None:
        self._setting, self._working_ahead, self._window = setting, working_ahead, window
        self._next_batch = 0
        self.forget()

    def __call__(self) -> int:
        """Make all batches of an epoch."""
        if self._working_ahead:
            return sum(len(batch) for batch in self._loader)
        first, self._next_batch = self._next_batch, self._next_batch + self._order.num_batches
        plans = map(self._order.batch, range(first, self._next_batch))
        return sum(len(self._collator.assemble(plan)) for plan in plans)

    def forget(self) -> None:
        """Start as a new process would: nothing mapped, nothing checked."""
        cache = FeatureCache.open(self._setting.cache_dir)
        windows = None
        if self._window is not None:
            windows = ShardWindows(cache.index.shards, group_size=self._window, seed=0)
        images = np.arange(len(cache))
        passes = ShuffledSampler(images, batch_size=BATCH_SIZE, seed=0, windows=windows)
        self._order = MixedBatchSampler([passes], seed=0)
        self._collator = Collator([cache])
        self._loader = CacheLoader(self._order, self._collator)


def collate(samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
    """Pad and stack samples as a user of these loaders would."""
    num_regions = max(len(sample["labels"]) for sample in samples)

    def padded(name: str) -> torch.Tensor:
        arrays = [torch.as_tensor(sample[name]) for sample in samples]
        whole = torch.zeros((len(arrays), num_regions, *arrays[0].shape[1:]), dtype=arrays[0].dtype)
        for row, array in enumerate(arrays):
            whole[row, : len(array)] = array
        return whole

    maps = torch.from_numpy(np.stack([sample["feature_map"] for sample in samples]))
    return {"feature_map": maps} | {name: padded(name) for name in ARRAYS[1:]}


def from_webdataset(sample: Sample) -> Sample:
    """Name the arrays as `collate` wants them."""
    return {name: sample[f"{name}.npy"] for name in ARRAYS}


def read_webdataset(setting: Setting, num_workers: int) -> int:
    """Read all batches of our shards with webdataset."""
    shards = sorted(map(str, shards_path(setting.cache_dir).glob("*.tar")))
    dataset = (
        webdataset.WebDataset(shards, shardshuffle=len(shards), nodesplitter=None)
        .shuffle(100)
        .decode()
        .map(from_webdataset)
        .batched(BATCH_SIZE, collation_fn=collate)
    )
    loader = DataLoader(dataset, batch_size=None, num_workers=num_workers)
    return sum(len(batch["feature_map"]) for batch in loader)


def read_litdata(setting: Setting, num_workers: int) -> int:
    """Read all batches with litdata."""
    dataset = litdata.StreamingDataset(str(setting.litdata_dir), shuffle=True)
    loader = litdata.StreamingDataLoader(
        dataset, batch_size=BATCH_SIZE, num_workers=num_workers, collate_fn=collate
    )
    return sum(len(batch["feature_map"]) for batch in loader)


def best_number_of_workers(read: Callable[[int], int]) -> int:
    """Return which of 0, 1 and 2 worker processes is fastest, from one try each."""
    seconds = {}
    for num_workers in (0, 1, 2):
        start = time.perf_counter()
        read(num_workers)
        seconds[num_workers] = time.perf_counter() - start
    return min(seconds, key=lambda number: seconds[number])


def drop_from_memory(files: Sequence[Path]) -> None:
    """Ask the system to forget files, so that they are read from disk again."""
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def timed(way: Callable[[], int]) -> float:
    """Return the seconds that a way takes."""
    start = time.perf_counter()
    way()
    return time.perf_counter() - start


def measured(setting: Setting, ways: dict[str, Callable[[], int]], rounds: int) -> Iterator[str]:
    """Run all ways in turn; yield a line for each, the first being the limit."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            seconds[name].append(timed(way))
    limit, *_ = seconds.values()
    for name, times in seconds.items():
        rate = setting.num_images / statistics.median(times)
        ratios = [ours / theirs for ours, theirs in zip(limit, times, strict=True)]
        yield f"{name:<44} {rate:10,.0f} images/s   {statistics.median(ratios):.3f} of the limit"


def warm_ways(setting: Setting) -> dict[str, Callable[[], int]]:
    """Return the ways to read what is in memory, the limit first."""
    webdataset_reads = partial(read_webdataset, setting)
    litdata_reads = partial(read_litdata, setting)
    workers = best_number_of_workers(webdataset_reads), best_number_of_workers(litdata_reads)
    source = np.ones((setting.num_images, BL.num_tokens * BL.feature_dim), np.float16)
    return {
        "memcpy": Memcpy(source, num_batches=1),
        "memcpy, 4 batches": Memcpy(source, num_batches=4),
        "regionspot, this thread": OurLoader(setting, working_ahead=False),
        "regionspot, its threads working ahead": OurLoader(setting, working_ahead=True),
        f"webdataset, {workers[0]} workers": lambda: webdataset_reads(workers[0]),
        f"litdata, {workers[1]} workers": lambda: litdata_reads(workers[1]),
    }


def cold_ways(setting: Setting) -> dict[str, Callable[[], int]]:
    """Return the ways to read from disk, the limit first."""
    shards = sorted(shards_path(setting.cache_dir).glob("*.tar"))
    cat = Cat(shards)
    shuffled = OurLoader(setting, working_ahead=True)
    windowed = OurLoader(setting, working_ahead=True, window=2)

    def read_by_cat() -> int:
        drop_from_memory(setting.files)
        return cat()

    def read_by(ours: OurLoader) -> int:
        for loader in (shuffled, windowed):
            loader.forget()  # what is mapped stays in memory
        drop_from_memory(setting.files)
        return ours()

    return {
        "cat, in order": read_by_cat,
        "regionspot, shuffled, checked": lambda: read_by(shuffled),
        "regionspot, windowed shuffle, checked": lambda: read_by(windowed),
    }


def main(
    num_images: int = 2000, rounds: int = 5, folder: str | None = None, *, cold: bool = False
) -> None:
    """Measure, and print what was seen.

    Args:
        num_images: Images; 530 KB each, twice.
        rounds: How often each way is run.
        folder: Where to write the samples; a temporary folder by default.
        cold: Also measure from disk.
    """
    torch.set_num_threads(1)
    place = Path(tempfile.mkdtemp(dir=folder))
    try:
        setting = write_samples(place, num_images)
        ways = warm_ways(setting)
        for way in ways.values():
            way()  # from here on all is in memory, and all images are checked
        print("\n".join(measured(setting, ways, rounds)))
        if cold:
            del ways, way
            print("\n".join(measured(setting, cold_ways(setting), rounds)))
    finally:
        shutil.rmtree(place)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
