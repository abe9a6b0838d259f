"""LVIS ground truth, versions 0.5 and 1."""

from dataclasses import replace
from pathlib import PurePosixPath

from regionspot.annotations.coco_json import read_coco_json
from regionspot.annotations.lvis_entries import INSTEAD, LvisImages
from regionspot.annotations.options import Source
from regionspot.annotations.raw import RawAnnotations


def read_lvis(source: Source) -> RawAnnotations:
    """Read an LVIS file.

    Version 0.5 names an image's file in ``file_name``. Version 1 does not: there the path is the
    end of ``coco_url``, folder and name, since LVIS splits are no COCO splits (its val has images
    of COCO's ``train2017``). The images folder is then the one that holds ``train2017`` and
    ``val2017``.

    Raises:
        MissingFileError: There is no such file.
        AnnotationError: The file is not LVIS ground truth; says what it is and what to type.
        VocabularyError: A class name is empty or occurs twice.
    """
    images = LvisImages()
    raw = read_coco_json(
        source.path,
        format_name="lvis",
        file_name_of=_file_name,
        prompt=source.options.prompt,
        beside=images,
    )
    if images.error is None:
        return raw
    # Training does without; whoever wants AP should know before the hours of caching.
    found = str(images.error).removesuffix(INSTEAD).rstrip(" .")
    note = f"evaluate.py and --val_annotations will refuse this file: {found}"
    return replace(raw, notes=(*raw.notes, note))


def _file_name(file_name: str | None, coco_url: str | None) -> str | None:
    if file_name is not None:
        return file_name
    return None if coco_url is None else "/".join(PurePosixPath(coco_url).parts[-2:])
