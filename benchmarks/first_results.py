"""How long does a newcomer wait for the first result of each thing to do after `make quickstart`?

    python benchmarks/first_results.py                        # some minutes

Every command runs in a new process, as typed in the documentation, with nothing prepared: imports,
loading of models, embedding of names and indexes count. The time of a row is the sum of its
commands, each round in an empty folder. Prints a Markdown table, which ``docs/start.md`` shows:
the median of several rounds, and its ratio to the limit of every command that uses a model, which
is the time that Python takes to import torch, segment_anything and open_clip.
"""

import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from jsonargparse import auto_cli

ROOT = Path(__file__).parents[1]
QUICKSTART = ROOT / "runs" / "quickstart"
IMAGE = QUICKSTART / "world" / "val" / "000000900000.jpg"
BOXES = "92,60,144,123 54,68,107,111 10,10,60,60"
NAMES = "plain yellow ring,dotted red heart,sea egg"
NUM_YOLO_IMAGES = 50

_MODEL = f"""
from regionspot import RegionSpot

model = RegionSpot.from_pretrained({str(QUICKSTART)!r}, device="auto")
boxes = [[92, 60, 144, 123], [54, 68, 107, 111], [10, 10, 60, 60]]
"""
_IN_PYTHON = f"""{_MODEL}
print(model.recognize({str(IMAGE)!r}, boxes, vocabulary={NAMES.split(",")!r}))
"""
_BY_EXAMPLE = f"""{_MODEL}
image = {str(IMAGE)!r}
examples = {{"my ring": [(image, boxes[0])], "my heart": [(image, boxes[1])]}}
print(model.recognize(image, [[90, 58, 140, 120]], examples=examples))
"""

IMPORTS = "python -c 'import torch, segment_anything, open_clip'"
QUESTION = f"--boxes {BOXES!r} --vocabulary {NAMES!r}"
ROWS = {
    "name three boxes, in the shell": [
        f"regionspot recognize {IMAGE} --model {QUICKSTART} {QUESTION}"
    ],
    "name three boxes, in Python": [f"python -c {shlex.quote(_IN_PYTHON)}"],
    "name by example": [f"python -c {shlex.quote(_BY_EXAMPLE)}"],
    "search 500 cached images by words": [
        f"regionspot index {QUICKSTART}/cache/val --head {QUICKSTART} --output val.index",
        f'regionspot search {QUICKSTART}/cache/val "dotted red heart" --index val.index',
    ],
    "export all steps, run them with onnxruntime": [
        f"regionspot export {QUICKSTART} --chain true --output exported",
        f'python {ROOT}/examples/onnx_runner.py exported {IMAGE} "{BOXES}"',
    ],
    f"train and evaluate on {NUM_YOLO_IMAGES} images of a YOLO folder": [
        "regionspot init my --preset toy",
        "regionspot cache --config runs/my/cache_train.yaml",
        "regionspot cache --config runs/my/cache_val.yaml",
        "regionspot fit --config runs/my/train.yaml",
        "regionspot evaluate --config runs/my/evaluate.yaml",
    ],
}


def write_yolo(folder: Path) -> None:
    """Write some validation images of the quickstart as a YOLO data set."""
    content = json.loads((QUICKSTART / "world" / "val.json").read_text(encoding="utf-8"))
    names = [one["name"] for one in content["categories"]]
    places = {one["id"]: place for place, one in enumerate(content["categories"])}
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    lines = [f"  {place}: {name}" for place, name in enumerate(names)]
    (folder / "data.yaml").write_text("path: .\ntrain: images\nnames:\n" + "\n".join(lines) + "\n")
    for image in content["images"][:NUM_YOLO_IMAGES]:
        stem, width, height = f"{image['id']:012d}", image["width"], image["height"]
        shutil.copy(QUICKSTART / "world" / "val" / f"{stem}.jpg", folder / "images")
        rows = []
        for one in content["annotations"]:
            if one["image_id"] == image["id"]:
                x, y, w, h = one["bbox"]
                box = ((x + w / 2) / width, (y + h / 2) / height, w / width, h / height)
                rows.append(f"{places[one['category_id']]} {' '.join(f'{v:.6f}' for v in box)}\n")
        (folder / "labels" / f"{stem}.txt").write_text("".join(rows))


def seconds_of(commands: list[str], *, folder: Path) -> float:
    """Run commands in a folder, and return their seconds."""
    # The interpreter's folder first: `regionspot` and `python` are those that run this script.
    bin_folder = str(Path(sys.executable).parent)
    environment = os.environ | {"PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
    # Embeddings of names that an earlier round kept would save the time of a first result.
    environment["REGIONSPOT_HOME"] = str(folder / "home")
    start = time.perf_counter()
    for command in commands:
        subprocess.run(  # noqa: S603 - the commands above
            shlex.split(command), cwd=folder, env=environment, check=True, capture_output=True
        )
    return time.perf_counter() - start


def main(repeats: int = 3) -> None:
    """Measure all rows.

    Args:
        repeats: Rounds; the median counts.
    """
    if not QUICKSTART.is_dir():
        raise SystemExit("error: no runs/quickstart here. Run `make quickstart` first.")
    limit = median_seconds([IMPORTS], repeats)
    print(f"importing torch, segment_anything and open_clip: {limit:.1f} s\n")
    print("| | seconds | of the imports |\n|---|---|---|")
    for title, commands in ROWS.items():
        seconds = median_seconds(commands, repeats)
        print(f"| {title} | {seconds:.0f} | {seconds / limit:.1f} x |", flush=True)


def median_seconds(commands: list[str], repeats: int) -> float:
    """Return the median of the seconds of commands over several rounds."""
    seconds = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as name:
            write_yolo(Path(name) / "my")
            seconds.append(seconds_of(commands, folder=Path(name)))
    return statistics.median(seconds)


if __name__ == "__main__":
    auto_cli(main)
