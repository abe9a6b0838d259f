"""Reads YOLO labels: a text file for each image, in fractions of its width and height.

A line is ``class cx cy width height`` (a box by its center), or ``class x1 y1 x2 y2 x3 y3 ...`` (a
polygon or an oriented box), whose extent becomes the box.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from regionspot.annotations.box_checks import check_boxes
from regionspot.annotations.columns import GrowingColumns, ImageColumns, RawAnnotations
from regionspot.annotations.options import Source
from regionspot.annotations.report import few
from regionspot.annotations.yolo_layout import YoloLayout, find_layout
from regionspot.core.errors import AnnotationError
from regionspot.core.files import canonical_json, sha256_bytes

_BOX_VALUES = 5
_MIN_POLYGON_VALUES = 7


def read_yolo(source: Source) -> RawAnnotations:
    """Read a YOLO data set; images are numbered from 0 in the order of their paths.

    An image without a label file, or with an empty one, has no regions. Classes that have no name
    are counted as unknown categories.
    """
    layout = find_layout(source)
    labels = {number: label for label, number in enumerate(layout.category_ids)}
    columns = GrowingColumns(
        image_rows=np.int32, labels=np.int32, boxes_xyxy=(np.float32, 4), faults=np.int8
    )
    num_values = _BOX_VALUES + layout.num_keypoint_values if layout.num_keypoint_values else 0
    hashes: dict[str, str] = {}
    for row, (name, path) in enumerate(zip(layout.file_names, layout.label_paths, strict=True)):
        data = _read(path)
        if data is not None:
            hashes[name] = sha256_bytes(data)
            _add(columns, row, _rows(data, path, num_values), labels)
    if not hashes:
        raise _no_labels(layout, source)
    return RawAnnotations(
        images=ImageColumns.from_file_names(layout.file_names),
        vocabulary=layout.vocabulary,
        category_ids=layout.category_ids,
        **columns.pop_all("image_rows", "labels", "boxes_xyxy", "faults"),
        marks={},
        sha256s=(layout.sha256, sha256_bytes(canonical_json(hashes).encode())),
        box_unit="relative",
        box_layout="xyxy",
        entries="labels",
        show=partial(_line_text, layout.label_paths),
        notes=layout.notes,
    )


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _rows(data: bytes, path: Path, num_values: int) -> list[list[float]]:
    """Return the class and the corners of the box on each line that is not blank."""
    rows = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        words = line.split()
        if not words:
            continue
        try:
            values = list(map(float, words))
        except ValueError:
            values = []
        if not _is_label(values, num_values):
            raise AnnotationError(
                f"{path}, line {number} is {line.decode('utf-8', 'replace').strip()[:80]!r}; wanted"
                " class, center x, center y, width, height, or class and the corners of a polygon"
                " x1 y1 x2 y2 x3 y3, as numbers separated by spaces."
                f"{_hint(values)}"
            )
        rows.append([values[0], *_corners(values, num_values)])
    return rows


def _is_label(values: Sequence[float], num_values: int) -> bool:
    if not values or not values[0].is_integer() or values[0] < 0:
        return False
    if num_values:
        return len(values) in {_BOX_VALUES, num_values}
    is_polygon = len(values) >= _MIN_POLYGON_VALUES and len(values) % 2 == 1
    return len(values) == _BOX_VALUES or is_polygon


def _hint(values: Sequence[float]) -> str:
    if len(values) == _BOX_VALUES + 1:
        return " Six values are predictions with scores, which are not labels."
    return ""


def _corners(values: Sequence[float], num_values: int) -> tuple[float, float, float, float]:
    if len(values) == _BOX_VALUES or num_values:
        center_x, center_y, width, height = values[1:_BOX_VALUES]
        left, top = center_x - width / 2, center_y - height / 2
        return left, top, center_x + width / 2, center_y + height / 2
    xs, ys = values[1::2], values[2::2]
    if not all(map(math.isfinite, values)):
        return math.nan, math.nan, math.nan, math.nan
    return min(xs), min(ys), max(xs), max(ys)


def _add(
    columns: GrowingColumns,
    image_row: int,
    rows: Sequence[Sequence[float]],
    labels: Mapping[int, int],
) -> None:
    if not rows:
        return
    values = np.array(rows, np.float64)
    boxes_xyxy, faults = check_boxes(values[:, 1:], "xyxy")
    columns.add(
        image_rows=np.full(len(rows), image_row),
        labels=[labels.get(int(number), -1) for number in values[:, 0]],
        boxes_xyxy=boxes_xyxy,
        faults=faults,
    )


def _line_text(label_paths: Sequence[Path], position: int) -> str:
    """Return where the label of a position is, and its line."""
    for path in label_paths:
        lines = [line.strip() for line in (_read(path) or b"").split(b"\n")]
        filled = [(number, line) for number, line in enumerate(lines, start=1) if line]
        if position < len(filled):
            number, line = filled[position]
            return f"{path}, line {number}: {line.decode('utf-8', 'replace')[:80]}"
        position -= len(filled)
    return ""


def _no_labels(layout: YoloLayout, source: Source) -> AnnotationError:
    return AnnotationError(
        f"{source.path}: none of its {len(layout.file_names):,} images has a label file. Looked for"
        f" {few([*map(str, layout.label_paths)], 2)}. Put the labels into a folder labels beside"
        " the folder images, with the same folders below it, or beside the images."
    )
