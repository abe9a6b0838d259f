"""COCO detection ground truth, also the usual format of people's own data."""

from pathlib import Path

from regionspot.annotations.coco_json import Entry, read_coco_json
from regionspot.annotations.json_file import read_json
from regionspot.annotations.raw import RawAnnotations
from regionspot.annotations.recognition import describe, recognize_format
from regionspot.core.errors import AnnotationError


def read_coco(path: Path) -> RawAnnotations:
    """Read a COCO file; an image's file is its ``file_name``.

    Raises:
        MissingFileError: There is no such file.
        AnnotationError: The file is not COCO ground truth; says what it is and what to type.
    """
    file = read_json(path)
    if recognize_format(file.value) == "lvis":
        raise AnnotationError(
            f"{path} is {describe(file.value)}, but --annotations.format is coco. Type"
            " --annotations.format lvis."
        )
    return read_coco_json(file, format_name="coco", file_name_of=_file_name)


def _file_name(entry: Entry) -> str | None:
    name = entry.get("file_name")
    return name if isinstance(name, str) else None
