"""What ``regionspot recognize`` writes about several images.

Each image becomes a record, a JSON object with its path as ``image``; a file is written from the
records of all images.
"""

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Literal

from regionspot.cli.recognize_inputs import ImageJob
from regionspot.core.files import open_atomic

if TYPE_CHECKING:
    from regionspot.inference import Regions

OutputFormat = Literal["json", "csv", "coco", "png"]
Record = dict[str, Any]
FILE_NAMES: Final[dict[OutputFormat, str]] = {
    "json": "regions.jsonl",
    "csv": "regions.csv",
    "coco": "regions.json",
}
"""The file of each format; pictures have none."""
_CSV_HEADER = ("image", "x1", "y1", "x2", "y2", "label", "score")


class RecordMaker:
    """Makes the record of each image, in one format.

    Args:
        kind: The format.
        folder: Where to write pictures.
    """

    def __init__(self, kind: OutputFormat, folder: Path | None) -> None:
        self._kind, self._folder = kind, folder
        self._has_categories = False
        self.num_failed = 0

    def record(self, job: ImageJob, found: "Regions | Exception") -> Record:
        """Return the record of an image; writes its picture, if these are the format."""
        record: Record = {"image": str(job.path)}
        if isinstance(found, Exception):
            self.num_failed += 1
            return record | {"error": str(found)}
        if self._kind == "coco":
            return record | self._coco(job, found)
        if self._kind == "png" and self._folder is not None:
            with open_atomic(self._folder / f"{job.name}.png") as file:
                found.plot().save(file, format="PNG")
            return record
        return record | found.to_dict()

    def _coco(self, job: ImageJob, regions: "Regions") -> Record:
        coco = regions.to_coco(image_id=0, file_name=str(job.path))
        if self._has_categories:  # the same for all images, and long
            del coco["categories"]
        self._has_categories = True
        return coco


def write_records(kind: OutputFormat, file: BinaryIO, records: Iterable[Record]) -> None:
    """Write the records of images as JSON lines, as CSV rows or as one COCO file.

    Images that could not be used are only in the JSON lines.
    """
    if kind == "json":
        for record in records:
            write_line(file, record)
        return
    usable = (record for record in records if "error" not in record)
    if kind == "csv":
        _write_csv(file, usable)
    elif kind == "coco":
        write_line(file, _joined_coco(usable))


def write_line(file: BinaryIO, value: object) -> None:
    """Write a JSON value as one line."""
    file.write((json.dumps(value, ensure_ascii=False) + "\n").encode())
    file.flush()


def _write_csv(file: BinaryIO, records: Iterable[Record]) -> None:
    file.write(_csv_row(_CSV_HEADER))
    for record in records:
        for region in record["regions"]:
            box = [f"{value:.2f}" for value in region["box_xyxy"]]
            row = (record["image"], *box, region["label"], f"{region['score']:.6f}")
            file.write(_csv_row(row))
        file.flush()


def _csv_row(row: tuple[str, ...]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(row)
    return text.getvalue().encode()


def _joined_coco(records: Iterable[Record]) -> Record:
    joined: dict[str, list[Record]] = {"images": [], "annotations": [], "categories": []}
    for record in records:
        image_id = len(joined["images"]) + 1
        joined["images"] += [{**image, "id": image_id} for image in record["images"]]
        for one in record["annotations"]:
            numbers = {"id": len(joined["annotations"]) + 1, "image_id": image_id}
            joined["annotations"].append(one | numbers)
        joined["categories"] = record.get("categories", joined["categories"])
    return joined
