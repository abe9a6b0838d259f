"""The annotation formats: to add one, write its reader and enter it here, twice."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from regionspot.annotations.assembly import Crowds, assemble
from regionspot.annotations.coco import read_coco
from regionspot.annotations.lvis import read_lvis
from regionspot.annotations.raw import RawAnnotations
from regionspot.annotations.record import AnnotatedImages
from regionspot.core.errors import AnnotationError, MissingFileError

AnnotationFormat = Literal["coco", "lvis"]
"""What ``--annotations.format`` accepts; a test holds it equal to the keys of `READERS`."""

READERS: Mapping[str, Callable[[Path], RawAnnotations]] = MappingProxyType(
    {"coco": read_coco, "lvis": read_lvis}
)
"""Reader of each format."""


def read_annotations(
    format: AnnotationFormat,  # noqa: A002 - the option's name, in code as in configs
    annotations_path: Path,
    images_dir: Path,
    *,
    name: str | None = None,
    crowds: Crowds = "keep",
) -> AnnotatedImages:
    """Read a data set's genuine annotation file.

    Boxes that are no regions are dropped and boxes that reach over their image's edge are clipped;
    the result's ``report`` counts both. Images without regions stay.

    Args:
        format: The file's format.
        annotations_path: The file.
        images_dir: Folder that the file names in it are relative to; the images are not opened.
        name: Name of the data set; the file's name when None.
        crowds: Whether an annotation around a crowd is a region like any other or is dropped.

    Raises:
        MissingFileError: The file or the folder does not exist.
        AnnotationError: The file has another format, is damaged, or contradicts itself.
        VocabularyError: A class name is empty or occurs twice.
    """
    reader = READERS.get(format)
    if reader is None:
        raise AnnotationError(
            f"there is no annotation format {format!r}. Choose --annotations.format from"
            f" {', '.join(READERS)}."
        )
    if not images_dir.is_dir():
        raise MissingFileError(
            f"there is no images folder at {images_dir}. Set --annotations.images_dir to the folder"
            f" that the file names in {annotations_path} are relative to."
        )
    return assemble(
        reader(annotations_path),
        path=annotations_path,
        format_name=format,
        images_dir=images_dir,
        name=name or annotations_path.stem,
        crowds=crowds,
    )
