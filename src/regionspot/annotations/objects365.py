"""Reads Objects365 ground truth, versions 1 and 2: COCO's layout, but files are moved.

Version 2 says ``images/v1/patch8/objects365_v1_00420917.jpg``; its archives unpack to
``patch8/objects365_v1_00420917.jpg``; version 1 has all images in one folder. Folders are searched
once for the right layout, not image by image: images that are listed but missing, or of another
size than annotated (a handful of the official release), stay, and are quarantined with their reason
when the cache is made.
"""

import os
from dataclasses import replace
from pathlib import Path

from regionspot.annotations.coco import read_coco_json
from regionspot.annotations.columns import RawAnnotations, TextColumn
from regionspot.annotations.options import Source
from regionspot.annotations.report import few
from regionspot.core.errors import MissingFileError

_NUM_SHOWN = 5


def read_objects365(source: Source) -> RawAnnotations:
    """Read an Objects365 file, and find its images under the images folder."""
    raw = read_coco_json(source.path, format_name="objects365", also=("coco",))
    located = _located(raw.images.file_names, source)
    return replace(raw, images=replace(raw.images, file_names=located))


def _located(file_names: TextColumn, source: Source) -> TextColumn:
    """Return the paths of images relative to the images folder; as named if that is remote.

    The candidates are the path as named (``images/v1/patch8/x.jpg``), then the path without its
    first folder (``v1/patch8/x.jpg``), without the first two (``patch8/x.jpg``), and so on to the
    name alone. The first candidate for which any folder holds a JPEG is used for all images.
    """
    if source.images_dir is None:
        return file_names
    folders = [name.split("/") for name in sorted({name.rpartition("/")[0] for name in file_names})]
    for num_left_out in range(max(map(len, folders)) + 1):
        candidates = {"/".join(folder[num_left_out:]) for folder in folders}
        if any(_holds_jpegs(source.images_dir / folder) for folder in sorted(candidates)):
            if not num_left_out:
                return file_names
            return TextColumn.from_texts(name.split("/", num_left_out)[-1] for name in file_names)
    parts = file_names[0].split("/")
    tried = ", ".join("/".join(parts[number:]) for number in range(len(parts)))
    names = sorted(entry.name for entry in source.images_dir.iterdir())
    content = f"It holds {few(names, _NUM_SHOWN)}." if names else "It is empty."
    raise MissingFileError(
        f"no image of {source.path} is under {source.images_dir}: searched for {tried}. {content}"
        " Set --annotations.images_dir to the folder that the images were unpacked to."
    )


def _holds_jpegs(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    with os.scandir(folder) as entries:
        return any(entry.name.endswith(".jpg") for entry in entries)
