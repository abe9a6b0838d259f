"""What ``regionspot recognize`` writes about several images."""

import csv
import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from regionspot.cli.recognize_inputs import ImageJob
from regionspot.core.files import open_atomic

if TYPE_CHECKING:
    from regionspot.inference import Regions

OutputFormat = Literal["json", "csv", "coco", "png"]
_FILE_NAMES = {"json": "regions.jsonl", "csv": "regions.csv", "coco": "regions.json"}
_CSV_HEADER = ("image", "x1", "y1", "x2", "y2", "label", "score")


class RegionWriter:
    """Writes the regions of images, in one format."""

    def __init__(self, kind: OutputFormat, file: BinaryIO, folder: Path | None) -> None:
        self._kind, self._file, self._folder = kind, file, folder
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._categories: list[dict[str, Any]] = []
        if kind == "csv":
            self._write_row(_CSV_HEADER)

    def add(self, job: ImageJob, regions: "Regions") -> None:
        """Write one image."""
        if self._kind == "json":
            self._write_line({"image": str(job.path), **regions.to_dict()})
        elif self._kind == "csv":
            for region in regions:
                box = [f"{value:.2f}" for value in region.box_xyxy.tolist()]
                self._write_row((str(job.path), *box, region.label, f"{region.score:.6f}"))
        elif self._kind == "coco":
            self._add_coco(job, regions)
        elif self._folder is not None:
            path = self._folder / f"{job.name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            regions.plot().save(path)

    def add_failure(self, job: ImageJob, message: str) -> None:
        """Note an image that could not be used; only JSON lines have a place for that."""
        if self._kind == "json":
            self._write_line({"image": str(job.path), "error": message})

    def finish(self) -> None:
        """Write what describes all images."""
        if self._kind == "coco":
            content = {"images": self._images, "annotations": self._annotations}
            self._write_line(content | {"categories": self._categories})

    def _add_coco(self, job: ImageJob, regions: "Regions") -> None:
        coco = regions.to_coco(image_id=len(self._images) + 1, file_name=str(job.path))
        before = len(self._annotations)
        self._images += coco["images"]
        self._annotations += [{**one, "id": before + one["id"]} for one in coco["annotations"]]
        self._categories = coco["categories"]

    def _write_line(self, value: object) -> None:
        self._file.write((json.dumps(value, ensure_ascii=False) + "\n").encode())
        self._file.flush()

    def _write_row(self, row: tuple[str, ...]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(row)
        self._file.write(text.getvalue().encode())
        self._file.flush()


@contextmanager
def region_writer(kind: OutputFormat, folder: Path | None) -> Iterator[RegionWriter]:
    """Open a writer to a file in a folder, which appears whole at the end, or to stdout.

    Pictures (``png``) are files in the folder.
    """
    if folder is None or kind == "png":
        writer = RegionWriter(kind, sys.stdout.buffer, folder)
        yield writer
        writer.finish()
        return
    with open_atomic(folder / _FILE_NAMES[kind]) as file:
        writer = RegionWriter(kind, file, folder)
        yield writer
        writer.finish()
