"""Objects365 ground truth, versions 1 and 2: COCO's layout, with files in other places than named.

Version 2 says ``images/v1/patch8/objects365_v1_00420917.jpg``; its archives unpack to
``patch8/objects365_v1_00420917.jpg``; version 1 has all images in one folder. Which of these lies
under the images folder is found out once, by looking at folders, not image by image: images that
are listed but missing, or of another size than annotated (a handful of the genuine release), stay,
and are quarantined with their reason when the cache is made.
"""

import os
from dataclasses import replace
from pathlib import Path

from regionspot.annotations.coco import named_file, read_coco_json
from regionspot.annotations.columns import RawAnnotations, TextColumn
from regionspot.annotations.options import Source
from regionspot.core.errors import MissingFileError

_NUM_SHOWN = 5


def read_objects365(source: Source) -> RawAnnotations:
    """Read an Objects365 file.

    Raises:
        MissingFileError: There is no such file, or no image of it under the images folder.
        AnnotationError: The file is not Objects365 ground truth; says what it is and what to type.
        VocabularyError: A class name is empty or occurs twice.
    """
    raw = read_coco_json(
        source.path, format_name="objects365", file_name_of=named_file, also=("coco",)
    )
    located = locate_files(raw.images.file_names, source)
    return replace(raw, images=replace(raw.images, file_names=located))


def locate_files(file_names: TextColumn, source: Source) -> TextColumn:
    """Return the paths of images below the images folder; as named if it cannot be looked into.

    The candidates are the path as named (``images/v1/patch8/x.jpg``), then the path without its
    first folder (``v1/patch8/x.jpg``), without the first two (``patch8/x.jpg``), and so on to the
    name alone. The first candidate is taken, for all images, of whose folders any holds a JPEG.

    Raises:
        MissingFileError: No candidate has such a folder.
    """
    if source.images_dir is None:
        return file_names
    folders = [name.split("/")[:-1] for name in sorted({_folder_of(name) for name in file_names})]
    for num_left_out in range(max(map(len, folders)) + 1):
        candidates = {"/".join(folder[num_left_out:]) for folder in folders}
        if any(_holds_jpegs(source.images_dir / folder) for folder in sorted(candidates)):
            return _shortened(file_names, num_left_out) if num_left_out else file_names
    raise MissingFileError(
        f"no image of {source.path} is under {source.images_dir}: it was looked for as"
        f" {_candidates_text(file_names[0])}. {_content_text(source.images_dir)} Set"
        " --annotations.images_dir to the folder that the images were unpacked to."
    )


def _folder_of(name: str) -> str:
    """Return the folder in a path, with a slash at its end."""
    return name[: name.rfind("/") + 1]


def _shortened(file_names: TextColumn, num_left_out: int) -> TextColumn:
    return TextColumn.from_texts(name.split("/", num_left_out)[-1] for name in file_names)


def _holds_jpegs(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    with os.scandir(folder) as entries:
        return any(entry.name.endswith(".jpg") for entry in entries)


def _candidates_text(name: str) -> str:
    parts = name.split("/")
    return ", ".join("/".join(parts[number:]) for number in range(len(parts)))


def _content_text(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir())
    more = ", ..." if len(names) > _NUM_SHOWN else ""
    return f"It holds {', '.join(names[:_NUM_SHOWN])}{more}." if names else "It is empty."
