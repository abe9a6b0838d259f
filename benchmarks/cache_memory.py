"""Does the memory of a caching job depend on the number of images?

    python benchmarks/cache_memory.py                          # some minutes, 0.5 GB of disk
    python benchmarks/cache_memory.py --sizes '[500,2000]'

Toy images under many names and the tiny models, so that what a job keeps of each image shows: with
full-size models the rest is a hundred times larger, and what is kept is the same. Each number of
images is cached in a fresh process. Prints the peak of its resident memory (VmHWM), its ratio to
that of the fewest images (1.05 at most is wanted for 1,000 and 10,000), and the bytes that an image
more takes: its annotations, which are held as columns, and its row of the index at the end.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from jsonargparse import auto_cli

from regionspot.annotations import read_annotations
from regionspot.toy import generate_world

NUM_DRAWN = 100
PROGRAM = """
import sys
from regionspot.cli.main import main
main(sys.argv[1:])
with open("/proc/self/status") as status:  # ru_maxrss would count the parent's memory, too
    print(next(line.split()[1] for line in status if line.startswith("VmHWM")))
"""


def link_many(world: Path, folder: Path, num_images: int) -> Path:
    """Give the images of ``val`` many names; return a CSV file with the boxes of all of them."""
    val = read_annotations("lvis", world / "val.json", world)
    folder.mkdir()
    rows = ["image,x1,y1,x2,y2,label"]
    for number in range(num_images):
        record = val.records[number % len(val.records)]
        name = f"{number:08d}.jpg"
        (folder / name).hardlink_to(world / record.file_name)
        for box, label in zip(record.boxes_xyxy.tolist(), record.labels.tolist(), strict=True):
            rows.append(f"{name},{','.join(map(str, box))},{val.vocabulary[label]}")
    path = folder.with_suffix(".csv")
    path.write_text("\n".join(rows), encoding="utf-8")
    return path


def peak_bytes(annotations: Path, images_dir: Path, cache: Path, num_threads: int) -> int:
    """Cache images in a process of its own, and return the peak of its resident memory."""
    words = [
        *("cache", "--annotations.format", "csv", "--annotations.path", str(annotations)),
        *("--annotations.images_dir", str(images_dir), "--output_dir", str(cache)),
        *("--models.preset", "toy", "--templates", "[none]", "--device", "cpu"),
    ]
    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", PROGRAM, *words],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": str(num_threads)},
    )
    return 1024 * int(done.stdout.splitlines()[-1])


def benchmark(
    sizes: list[int] = [1000, 10_000],  # noqa: B006 - read only, and shown in --help
    repeats: int = 1,
    num_threads: int = 2,
) -> None:
    """Measure the peak for several numbers of images.

    Args:
        sizes: How many images, the fewest first.
        repeats: How often each is measured, in turn; the median counts.
        num_threads: Threads of the job.
    """
    peaks: dict[int, list[int]] = {size: [] for size in sizes}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        generate_world(folder / "world", seed=1, num_val=NUM_DRAWN, num_train=1)
        tables = {size: link_many(folder / "world", folder / f"{size}", size) for size in sizes}
        for number in range(repeats):
            for size, table in tables.items():
                cache = folder / f"cache_{size}_{number}"
                peaks[size].append(peak_bytes(table, table.with_suffix(""), cache, num_threads))
    medians = {size: statistics.median(peaks[size]) for size in sizes}
    for size, peak in medians.items():
        line = f"{size:>9,} images: peak {peak / 1e6:,.0f} MB, {peak / medians[sizes[0]]:.3f} x"
        if size != sizes[0]:
            more = (peak - medians[sizes[0]]) / (size - sizes[0])
            line += f", {more:,.0f} bytes an image more"
        print(line)


if __name__ == "__main__":
    auto_cli(benchmark)
