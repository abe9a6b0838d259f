"""How fast, and in how much memory, are files of millions of boxes read?

    python benchmarks/plan_annotations.py
    python benchmarks/plan_annotations.py --num_boxes 20000 --num_rows 50000 --num_proposals 20000
    python benchmarks/plan_annotations.py --num_boxes 25000000 --num_rows 14600000 --peers false \
        --repeats 1     # as large as Objects365 v2 and OpenImages V6; 10 GB in the temporary folder

Writes a JSON file like Objects365's, a CSV file like OpenImages' and COCO results of made-up boxes,
and reads each in fresh processes: with `read_annotations`, which ends with judged boxes and records
ready to plan, or `read_proposals`, which ends with sorted boxes without repeats; and with peers,
which only parse: json.loads and ijson, the csv module with and without turning the four sides into
numbers. Prints medians, interleaved: MB/s of the file, how many times that of the plainest peer,
the peak of anonymous memory and its ratio to the file's size. Pages of a memory-mapped file are not
counted: the kernel can drop them at any time.
"""

import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from jsonargparse import auto_cli

BOXES_PER_IMAGE = 14
PROPOSALS_PER_IMAGE, CLASSES_PER_PROPOSAL = 300, 3
NUM_CLASSES = {"json": 365, "csv": 601}
HEADER = (
    "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,"
    "IsDepiction,IsInside,XClick1X,XClick2X,XClick3X,XClick4X,XClick1Y,XClick2Y,XClick3Y,XClick4Y"
)

READ = """
options = ReadOptions(classes_path={classes})
data = read_annotations({format!r}, Path({path!r}), Path({folder!r}), options=options)
count = data.report.num_annotations
keys = data.records.keys()
"""
READERS = {
    "json": {
        "read_annotations": READ,
        "json.loads": """
with open({path!r}, "rb") as file:
    count = len(json.loads(file.read())["annotations"])
""",
        "ijson": """
with open({path!r}, "rb") as file:
    count = sum(1 for entry in ijson.items(file, "annotations.item", use_float=True))
""",
    },
    "csv": {
        "read_annotations": READ,
        "csv": """
with open({path!r}, newline="") as file:
    count = sum(1 for row in csv.reader(file)) - 1
""",
        "csv, four floats kept": """
with open({path!r}, newline="") as file:
    rows = csv.reader(file)
    next(rows)
    count = len([(row[0], row[2], *map(float, row[4:8]), row[10] == "1") for row in rows])
""",
    },
}
READERS["results"] = {
    "read_proposals": """
count = read_proposals(Path({path!r})).num_read
""",
    "json.loads": """
with open({path!r}, "rb") as file:
    count = len(json.loads(file.read()))
""",
    "ijson": """
with open({path!r}, "rb") as file:
    count = sum(1 for entry in ijson.items(file, "item", use_float=True))
""",
}
IMPORTS = {
    "read_proposals": """
from pathlib import Path
from regionspot.annotations import read_proposals
""",
    "read_annotations": """
from pathlib import Path
from regionspot.annotations import ReadOptions, read_annotations
""",
    "ijson": "import ijson",
}
MEASURE = """
import csv, json, time
{imports}
start = time.perf_counter()
{read}
print(time.perf_counter() - start, count)
"""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One reading of a file in a fresh process."""

    seconds: float
    peak_bytes: int
    count: int


def write_json(path: Path, num_boxes: int) -> None:
    """Write a file in Objects365's layout."""
    rng = random.Random(0)  # noqa: S311 - a benchmark
    num_images = -(-num_boxes // BOXES_PER_IMAGE)

    def images() -> Iterator[object]:
        for number in range(num_images):
            name = f"images/v1/patch{number % 51}/objects365_v1_{number:08d}.jpg"
            size = {"height": 512, "width": 769}
            yield {**size, "id": number, "license": 5, "file_name": name, "url": ""}

    def annotations() -> Iterator[object]:
        for number in range(num_boxes):
            bbox = [rng.uniform(0, 300) for _ in range(4)]
            yield {
                "id": number,
                "iscrowd": 0,
                "isfake": 0,
                "area": bbox[2] * bbox[3],
                "isreflected": 0,
                "bbox": bbox,
                "image_id": rng.randrange(num_images),
                "category_id": rng.randrange(NUM_CLASSES["json"]) + 1,
            }

    categories = [{"name": f"class {n}", "id": n + 1} for n in range(NUM_CLASSES["json"])]
    with path.open("w", encoding="utf-8") as file:
        for start, entries in (('{"images": [', images()), ('], "annotations": [', annotations())):
            file.write(start)
            for number, entry in enumerate(entries):
                file.write(f"{', ' if number else ''}{json.dumps(entry)}")
        file.write(f'], "categories": {json.dumps(categories)}, "licenses": []}}')


def write_csv(path: Path, num_rows: int) -> None:
    """Write a file in the layout of OpenImages V6, and the class descriptions beside it."""
    rng = random.Random(0)  # noqa: S311 - a benchmark
    image_id = ""
    classes = [f"/m/{number:05x}" for number in range(NUM_CLASSES["csv"])]
    lines = [f"{mid},class {number}\n" for number, mid in enumerate(classes)]
    path.with_name("classes.csv").write_text("".join(lines), encoding="utf-8")
    with path.open("w", encoding="utf-8") as file:
        file.write(HEADER + "\n")
        for number in range(num_rows):
            if number % BOXES_PER_IMAGE == 0:
                image_id = f"{rng.getrandbits(64):016x}"
            x1, x2, y1, y2 = (f"{rng.random() / 2 + half:.6f}" for half in (0, 0.5, 0, 0.5))
            marks = f"0,1,{int(rng.random() < 0.05)},0,0"
            clicks = f"{x1},{y1},{x2},{y2},{y1},{x1},{y2},{x2}"
            mid = classes[rng.randrange(len(classes))]
            file.write(f"{image_id},xclick,{mid},1,{x1},{x2},{y1},{y2},{marks},{clicks}\n")


def write_results(path: Path, num_proposals: int) -> None:
    """Write COCO results: several classes for each box, as open-vocabulary detectors give them."""
    rng = random.Random(0)  # noqa: S311 - a benchmark
    with path.open("w", encoding="utf-8") as file:
        bbox: list[float] = []
        for number in range(num_proposals):
            if number % CLASSES_PER_PROPOSAL == 0:
                bbox = [rng.uniform(0, 300) for _ in range(4)]
            entry = {
                "image_id": number // PROPOSALS_PER_IMAGE,
                "category_id": rng.randrange(1203) + 1,
                "bbox": bbox,
                "score": rng.random(),
            }
            file.write(f"{', ' if number else '['}{json.dumps(entry)}")
        file.write("]")


def measure(read: str, imports: str) -> Measured:
    """Run some code in a fresh process; what it imports is not timed."""
    command = [sys.executable, "-c", MEASURE.format(read=read, imports=imports)]
    peak_bytes = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        while process.poll() is None:
            peak_bytes = max(peak_bytes, anonymous_bytes(process.pid))
            time.sleep(0.01)
        seconds, count = process.stdout.read().split() if process.stdout else ("nan", "0")
    return Measured(seconds=float(seconds), peak_bytes=peak_bytes, count=int(count))


def anonymous_bytes(pid: int) -> int:
    """Return a process's resident memory without the pages of files; 0 if it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("RssAnon"):
                return int(line.split()[1]) * 1024
    return 0


def compare(kind: str, path: Path, readers: dict[str, str], repeats: int) -> None:
    """Read one file with all readers in turn, and print their medians."""
    names = {"json": "objects365", "csv": "openimages", "results": "coco results"}
    classes = f"Path({str(path.with_name('classes.csv'))!r})" if kind == "csv" else None
    values = {"path": str(path), "folder": str(path.parent), "format": names[kind]}
    codes = {n: code.format(**values, classes=classes) for n, code in readers.items()}
    runs: dict[str, list[Measured]] = {name: [] for name in codes}
    for _ in range(repeats):
        for name, code in codes.items():
            runs[name].append(measure(code, IMPORTS.get(name, "")))
    size = path.stat().st_size
    counts = {run.count for of_reader in runs.values() for run in of_reader}
    print(f"\n{names[kind]}: {size / 1e6:,.0f} MB, {', '.join(map(str, counts))} boxes")
    print(f"{'reader':24}{'seconds':>9}{'MB/s':>8}{'ratio':>8}{'peak MB':>10}{'peak / file':>13}")
    seconds = {n: statistics.median(run.seconds for run in of) for n, of in runs.items()}
    plainest = seconds[list(seconds)[min(1, len(seconds) - 1)]]
    for name, of_reader in runs.items():
        peak = statistics.median(run.peak_bytes for run in of_reader)
        print(
            f"{name:24}{seconds[name]:9.2f}{size / 1e6 / seconds[name]:8.1f}"
            f"{plainest / seconds[name]:8.2f}{peak / 1e6:10,.0f}{peak / size:13.2f}"
        )


def plan_annotations(
    num_boxes: int = 2_000_000,
    num_rows: int = 5_000_000,
    num_proposals: int = 2_000_000,
    repeats: int = 3,
    peers: bool = True,  # noqa: FBT001, FBT002 - an option
    folder: Path | None = None,
) -> None:
    """Compare readers of large annotation files.

    Args:
        num_boxes: Boxes of the JSON file; 0 leaves it out.
        num_rows: Rows of the CSV file; 0 leaves it out.
        num_proposals: Entries of the COCO results; 0 leaves them out.
        repeats: How often each reader reads it.
        peers: Whether to compare with other readers.
        folder: Where to write the files; by default the system's temporary folder.
    """
    writers: dict[str, tuple[Callable[[Path, int], None], int]] = {
        "json": (write_json, num_boxes),
        "csv": (write_csv, num_rows),
        "results": (write_results, num_proposals),
    }
    for kind, (write, size) in writers.items():
        if not size:
            continue
        readers = dict(READERS[kind])
        if not peers:
            readers = dict(list(readers.items())[:1])
        elif find_spec("ijson") is None and readers.pop("ijson", ""):
            print("ijson is not installed: left out (pip install ijson)")
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            path = Path(temporary) / f"boxes.{kind}"
            write(path, size)
            (path.parent / "patch0").mkdir()
            (path.parent / "patch0" / "objects365_v1_00000000.jpg").touch()
            compare(kind, path, readers, repeats)


if __name__ == "__main__":
    auto_cli(plan_annotations)
