"""What COCO, LVIS and their relatives share: a JSON object of images, annotations, categories."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regionspot.annotations.json_file import JsonFile
from regionspot.annotations.raw import RawAnnotations, RawCategory, RawImage
from regionspot.annotations.recognition import WANTED_LISTS, describe
from regionspot.core.errors import AnnotationError

Entry = Mapping[str, object]


def read_coco_json(
    file: JsonFile, *, format_name: str, file_name_of: Callable[[Entry], str | None]
) -> RawAnnotations:
    """Read the lists of a COCO-like file.

    Args:
        file: The file's content.
        format_name: The format that was asked for, for messages.
        file_name_of: Gives the path of an ``images`` entry's file below the images folder, or None
            when the entry does not say.

    Raises:
        AnnotationError: A list is missing, or an entry lacks what it needs; names list and place.
    """
    images, annotations, categories = (
        _list_of(file, name, format_name=format_name) for name in WANTED_LISTS
    )
    places = _Places(file.path)
    boxes = [_box(entry.get("bbox")) for entry in annotations]
    return RawAnnotations(
        images=[
            _image(entry, places.of("images", index), file_name_of(entry))
            for index, entry in enumerate(images)
        ],
        categories=[
            _category(entry, places.of("categories", index))
            for index, entry in enumerate(categories)
        ],
        image_ids=_ids(annotations, "image_id", places),
        category_ids=_ids(annotations, "category_id", places),
        boxes_xywh=np.array([box or _NO_BOX for box in boxes], np.float64).reshape(-1, 4),
        has_box=np.array([box is not None for box in boxes], np.bool_),
        is_crowd=np.array([bool(entry.get("iscrowd")) for entry in annotations], np.bool_),
        sha256=file.sha256,
    )


_NO_BOX = (0.0, 0.0, 0.0, 0.0)


class _Places:
    """Names the place of an entry, for messages."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def of(self, list_name: str, index: int) -> str:
        return f"{self._path}: {list_name}[{index}]"


def _list_of(file: JsonFile, name: str, *, format_name: str) -> Sequence[Entry]:
    content = file.value
    if isinstance(content, dict) and isinstance(entries := content.get(name), list):
        for index, entry in enumerate(entries):
            if not isinstance(entry, dict):
                raise AnnotationError(
                    f"{file.path}: {name}[{index}] is {str(entry)[:60]!r}; wanted an object."
                )
        return entries
    raise AnnotationError(
        f"{file.path} is {describe(content)}, which has no list {name!r}; --annotations.format"
        f" {format_name} needs the lists {', '.join(WANTED_LISTS)}. Set --annotations.path to the"
        " ground-truth file."
    )


def _image(entry: Entry, place: str, file_name: str | None) -> RawImage:
    if not file_name:
        raise AnnotationError(
            f"{place} does not name its file (keys: {', '.join(entry)}); wanted file_name, the path"
            " below --annotations.images_dir."
        )
    return RawImage(
        image_id=_whole_number(entry, "id", place),
        file_name=file_name,
        size_hw=(_whole_number(entry, "height", place), _whole_number(entry, "width", place)),
    )


def _category(entry: Entry, place: str) -> RawCategory:
    name = entry.get("name")
    if not isinstance(name, str):
        raise AnnotationError(f"{place}.name is {name!r}; wanted the class name as text.")
    return RawCategory(category_id=_whole_number(entry, "id", place), name=name)


def _whole_number(entry: Entry, field: str, place: str) -> int:
    value = entry.get(field)
    # JSON writers that go through float tables turn 480 into 480.0: the same number.
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise AnnotationError(f"{place}.{field} is {value!r}; wanted a whole number, 0 or more.")
    return value


def _ids(annotations: Sequence[Entry], field: str, places: _Places) -> NDArray[np.int64]:
    for index, entry in enumerate(annotations):
        if field not in entry:
            raise AnnotationError(
                f"{places.of('annotations', index)} has no {field} (keys: {', '.join(entry)})."
            )
    return np.array([_id_or_unknown(entry[field]) for entry in annotations], np.int64)


def _id_or_unknown(value: object) -> int:
    """Map what cannot be an id to -1, which no image or category has: it is counted as unknown."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and 0 <= value < 2**63 else -1


def _box(value: object) -> tuple[float, ...] | None:
    if not isinstance(value, list) or len(value) != 4:
        return None
    if not all(isinstance(side, (int, float)) for side in value):
        return None
    try:
        return tuple(float(side) for side in value)
    except OverflowError:  # a whole number beyond all floats
        return (math.inf,) * 4
