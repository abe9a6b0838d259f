"""LVIS ground truth: read, checked to be LVIS, and cut to the images that are evaluated."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self, cast

from regionspot.core.errors import AnnotationError, MissingFileError
from regionspot.core.hashing import sha256_bytes

Frequency = Literal["r", "c", "f"]
FREQUENCIES: tuple[Frequency, ...] = ("r", "c", "f")

_IMAGE_KEYS = ("id", "neg_category_ids", "not_exhaustive_category_ids")
_ANNOTATION_KEYS = ("id", "image_id", "category_id", "bbox", "area")
_INSTEAD = (
    "LVIS AP needs the federated labels of an LVIS file (lvis_v1_val.json): which categories were"
    " looked for in which image, and how frequent each is. Plain COCO-format ground truth has"
    " neither and needs COCO AP, which `evaluate.py` does not offer: write predictions.json and"
    " score it with torchmetrics.detection.MeanAveragePrecision or pycocotools."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LvisCategory:
    """One category of an LVIS file."""

    id: int
    """The data set's own category id."""
    name: str
    """The class name as the file spells it."""
    frequency: Frequency
    """Rare, common or frequent: in how many training images LVIS found it (<10, <100, more)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LvisGroundTruth:
    """An LVIS annotation file that was checked to be one."""

    name: str
    """What messages call it: the path of the file."""
    sha256: str
    """Identity of the file's bytes, whatever subset of its images is kept."""
    categories: tuple[LvisCategory, ...]
    """The categories, in order of their ids."""
    image_ids: tuple[int, ...]
    """The images that are evaluated, in the file's order."""
    num_annotations: int
    """Annotated regions in those images."""
    dataset: Mapping[str, object] = field(repr=False)
    """The parsed file, as `lvis.LVIS` holds it; not to be changed."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read an annotation file in LVIS format.

        Raises:
            MissingFileError: There is no such file.
            AnnotationError: The file is not JSON, or not in LVIS format; says what is missing and
                what else to use.
        """
        if not path.is_file():
            raise MissingFileError(
                f"no annotation file at {path}. Set `annotations` to LVIS ground truth; LVIS v1's"
                " is lvis_v1_val.json from https://www.lvisdataset.org/dataset."
            )
        data = path.read_bytes()
        try:
            dataset = json.loads(data)
        except json.JSONDecodeError as error:
            raise AnnotationError(f"{path} is not JSON ({error}); is it cut off?") from error
        return cls.from_dataset(dataset, name=str(path), sha256=sha256_bytes(data))

    @classmethod
    def from_dataset(cls, dataset: object, *, name: str, sha256: str = "") -> Self:
        """Check a parsed annotation file; see `read`."""
        tables = _checked_tables(dataset, name)
        categories = sorted(
            (
                LvisCategory(
                    id=cast("int", row["id"]),
                    name=str(row.get("name", row["id"])),
                    frequency=cast("Frequency", row["frequency"]),
                )
                for row in tables["categories"]
            ),
            key=lambda category: category.id,
        )
        return cls(
            name=name,
            sha256=sha256,
            categories=tuple(categories),
            image_ids=tuple(cast("int", row["id"]) for row in tables["images"]),
            num_annotations=len(tables["annotations"]),
            dataset=cast("Mapping[str, object]", dataset),
        )

    def subset(self, image_ids: Collection[int]) -> Self:
        """Keep only some images and their annotations; every category stays."""
        wanted = set(image_ids)
        tables = _checked_tables(self.dataset, self.name)
        kept: dict[str, object] = {
            **self.dataset,
            "images": [row for row in tables["images"] if row["id"] in wanted],
            "annotations": [row for row in tables["annotations"] if row["image_id"] in wanted],
        }
        return type(self).from_dataset(kept, name=self.name, sha256=self.sha256)


_Rows = list[dict[str, object]]


def _checked_tables(dataset: object, name: str) -> dict[str, _Rows]:
    if not isinstance(dataset, dict):
        raise AnnotationError(f"{name} holds a {type(dataset).__name__}, not an object. {_INSTEAD}")
    tables: dict[str, _Rows] = {}
    for table in ("images", "annotations", "categories"):
        rows = dataset.get(table)
        if not isinstance(rows, list):
            raise AnnotationError(
                f"{name} has the keys {sorted(dataset)} and no list {table!r}. {_INSTEAD}"
            )
        tables[table] = rows
    _check_rows(tables["categories"], ("id", "frequency"), f"{name}, categories")
    _check_rows(tables["images"], _IMAGE_KEYS, f"{name}, images")
    _check_rows(tables["annotations"], _ANNOTATION_KEYS, f"{name}, annotations")
    _check_frequencies(tables["categories"], name)
    _check_links(tables, name)
    return tables


def _check_rows(rows: _Rows, keys: tuple[str, ...], place: str) -> None:
    for index, row in enumerate(rows):
        missing = [key for key in keys if key not in row]
        if missing:
            raise AnnotationError(f"{place}[{index}] lacks {missing}: not LVIS format. {_INSTEAD}")


def _check_frequencies(categories: _Rows, name: str) -> None:
    for index, row in enumerate(categories):
        if row["frequency"] not in FREQUENCIES:
            raise AnnotationError(
                f"{name}, categories[{index}] has the frequency {row['frequency']!r}; wanted 'r',"
                " 'c' or 'f'."
            )


def _check_links(tables: dict[str, _Rows], name: str) -> None:
    for table in tables:
        ids = [row["id"] for row in tables[table]]
        if len(set(ids)) != len(ids):
            raise AnnotationError(f"{name}, {table}: {len(ids) - len(set(ids))} ids occur twice.")
    images = {row["id"] for row in tables["images"]}
    categories = {row["id"] for row in tables["categories"]}
    for index, row in enumerate(tables["annotations"]):
        if row["image_id"] not in images or row["category_id"] not in categories:
            raise AnnotationError(
                f"{name}, annotations[{index}] points to image {row['image_id']} and category"
                f" {row['category_id']}, which the file does not list."
            )
