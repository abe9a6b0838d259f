"""LVIS ground truth, versions 0.5 and 1."""

from pathlib import Path, PurePosixPath

from regionspot.annotations.coco_json import Entry, read_coco_json
from regionspot.annotations.json_file import read_json
from regionspot.annotations.raw import RawAnnotations
from regionspot.annotations.recognition import describe, recognize_format
from regionspot.core.errors import AnnotationError


def read_lvis(path: Path) -> RawAnnotations:
    """Read an LVIS file.

    Version 0.5 names an image's file in ``file_name``. Version 1 does not: there the path is the
    end of ``coco_url``, folder and name, since LVIS splits are no COCO splits (its val has images
    of COCO's ``train2017``). The images folder is then the one that holds ``train2017`` and
    ``val2017``.

    Raises:
        MissingFileError: There is no such file.
        AnnotationError: The file is not LVIS ground truth; says what it is and what to type.
    """
    file = read_json(path)
    if recognize_format(file.value) == "coco":
        raise AnnotationError(
            f"{path} is {describe(file.value)} (no category has a frequency), but"
            " --annotations.format is lvis. Type --annotations.format coco."
        )
    return read_coco_json(file, format_name="lvis", file_name_of=_file_name)


def _file_name(entry: Entry) -> str | None:
    name = entry.get("file_name")
    if isinstance(name, str):
        return name
    url = entry.get("coco_url")
    if not isinstance(url, str):
        return None
    return "/".join(PurePosixPath(url).parts[-2:])
