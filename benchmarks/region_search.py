"""How fast is exact search in a region index, against plain products and faiss?

    python benchmarks/region_search.py
    python benchmarks/region_search.py --num_regions 1000000 --repeats 3

Random embeddings of unit norm in float16, in the files of a region index, and one query at a time.
In turn, several times:

- regionspot: `RegionIndex.similar`, from the memory-mapped parts to the hits;
- numpy: a product with the same embeddings, as float32 in memory, and `numpy.argpartition`;
- torch: the same with `torch.topk`;
- faiss flat: ``IndexFlatIP``, float32 in memory;
- faiss fp16: ``IndexScalarQuantizer`` in float16, half the memory.

All use the same number of threads. Prints for each the seconds and those of CPU (which other
programs on the machine change less), what a million regions take at that rate, regionspot's share
of them with the least and the largest of all rounds, and which find the same regions.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import torch
from common.made_up_cache import BL, made_up_fingerprint
from jsonargparse import auto_cli
from numpy.typing import NDArray

from regionspot.inference import IndexSource, RegionIndex
from regionspot.inference.index_files import IndexCard, RegionTable, write_card, write_part

PART_ROWS = 10_000


def write_index(folder: Path, num_regions: int, width: int) -> NDArray[np.float16]:
    """Write an index of random embeddings, and return them, (R, E)."""
    rng = np.random.default_rng(0)
    source = IndexSource(head_sha256="0" * 64, cache_sha256="0" * 64)
    parts, written = [], []
    for number, start in enumerate(range(0, num_regions, PART_ROWS)):
        count = min(PART_ROWS, num_regions - start)
        rows = rng.standard_normal((count, width), np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        table = RegionTable(
            keys=np.array([f"{start + row:012d}" for row in range(count)], np.bytes_),
            image_ids=np.arange(start, start + count),
            file_names=np.zeros(count, "S1"),
            num_regions=np.ones(count, np.int32),
            boxes_xyxy=np.zeros((count, 4), np.float32),
            labels=np.zeros(count, np.int32),
        )
        written.append(rows.astype(np.float16))
        parts.append(write_part(folder, number, table, written[-1], source))
    card = IndexCard(
        source=source,
        fingerprint=made_up_fingerprint().to_dict(),
        templates="none",
        scale=100.0,
        bias=0.0,
        vocabulary=("thing",),
        text_dim=width,
        parts=tuple(parts),
    )
    write_card(folder, card)
    return np.concatenate(written)


def benchmark(
    *,
    num_regions: int = 200_000,
    width: int = BL.text_dim,
    top: int = 20,
    repeats: int = 5,
    threads: int = 2,
) -> None:
    """Compare all of them.

    Args:
        num_regions: Regions of the index.
        width: Width of an embedding.
        top: Number of results.
        repeats: How often each way is timed, in turn.
        threads: Threads of each.
    """
    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        half_RE = write_index(Path(folder), num_regions, width)
        index = RegionIndex.open(folder)
        single_RE = half_RE.astype(np.float32)
        of_torch_RE = torch.from_numpy(single_RE)
        flat = faiss.IndexFlatIP(width)
        flat.add(single_RE)
        quantized = faiss.IndexScalarQuantizer(
            width, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
        )
        quantized.train(single_RE[:1000])
        quantized.add(single_RE)
        query_E = np.random.default_rng(1).standard_normal(width, np.float32)
        query_E /= np.linalg.norm(query_E)

        def by_numpy() -> set[int]:
            cosines = single_RE @ query_E
            return set(np.argpartition(-cosines, top)[:top].tolist())

        ways: dict[str, Callable[[], set[int]]] = {
            "regionspot": lambda: {hit.image_id for hit in index.similar(query_E, top=top)},
            "numpy": by_numpy,
            "torch": lambda: set(
                (of_torch_RE @ torch.from_numpy(query_E)).topk(top).indices.tolist()
            ),
            "faiss flat": lambda: set(flat.search(query_E[None], top)[1][0].tolist()),
            "faiss fp16": lambda: set(quantized.search(query_E[None], top)[1][0].tolist()),
        }
        found = {name: way() for name, way in ways.items()}  # also reads and checks all files
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        cpu_seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(repeats):
            for name, way in ways.items():
                start, start_cpu = time.perf_counter(), time.process_time()
                way()
                seconds[name].append(time.perf_counter() - start)
                cpu_seconds[name].append(time.process_time() - start_cpu)
    scale = 1e6 / num_regions
    print(f"{num_regions:,} regions of width {width}, {threads} threads, {repeats} rounds")
    for name in ways:
        wall_s, cpu_s = statistics.median(seconds[name]), statistics.median(cpu_seconds[name])
        print(
            f"{name:<11} {wall_s:.3f} s, {cpu_s:.3f} s of CPU; a million: {wall_s * scale:.2f} s,"
            f" {cpu_s * scale:.2f} s of CPU; regionspot takes {_ratio(seconds, name)} of its time,"
            f" {_ratio(cpu_seconds, name)} of its CPU"
        )
    same = [name for name in found if found[name] == found["regionspot"]]
    print(f"the same {top} regions: {', '.join(same)}")


def _ratio(seconds: dict[str, list[float]], name: str) -> str:
    ratios = [a / b for a, b in zip(seconds["regionspot"], seconds[name], strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


if __name__ == "__main__":
    auto_cli(benchmark)
