"""COCO detection ground truth, also the usual format of people's own data."""

from regionspot.annotations.coco_json import read_coco_json
from regionspot.annotations.options import Source
from regionspot.annotations.raw import RawAnnotations


def read_coco(source: Source) -> RawAnnotations:
    """Read a COCO file; an image's file is its ``file_name``.

    Raises:
        MissingFileError: There is no such file.
        AnnotationError: The file is not COCO ground truth; says what it is and what to type.
        VocabularyError: A class name is empty or occurs twice.
    """
    return read_coco_json(
        source.path, format_name="coco", file_name_of=named_file, prompt=source.options.prompt
    )


def named_file(file_name: str | None, coco_url: str | None) -> str | None:  # noqa: ARG001
    """Return an image's ``file_name``."""
    return file_name
