"""Reads Pascal VOC annotations: an XML file for each image.

Corners count pixels from 1 and include the last one, so the box of ``xmin, ymin, xmax, ymax``
covers ``xmin - 1, ymin - 1, xmax, ymax``, as in the VOC development kit.
"""

import os
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, NoReturn
from xml.parsers import expat

import numpy as np

from regionspot.annotations.box_checks import check_boxes
from regionspot.annotations.columns import GrowingColumns, ImageColumns, RawAnnotations
from regionspot.annotations.detect_format import wrong_file
from regionspot.annotations.options import Source
from regionspot.core.errors import AnnotationError, ConfigError, MissingFileError
from regionspot.core.files import canonical_json, is_file, sha256_bytes
from regionspot.core.vocabulary import Vocabulary

ANNOTATIONS_DIR: Final = "Annotations"
_SIDES = ("xmin", "ymin", "xmax", "ymax")
_FLAGS = ("difficult", "truncated")
_LINE = "line"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Image:
    """The content of one XML file; R objects."""

    file_name: str
    size_hw: tuple[int, int] | None
    """None if the file does not say."""
    names: list[str] = field(default_factory=list)
    """Class of each object, R."""
    boxes_xyxy: list[list[float]] = field(default_factory=list)
    """Corners as written, R."""
    places: list[str] = field(default_factory=list)
    """File and line of each object, R."""
    flags: tuple[int, ...] = (0, 0)
    """How many objects have each of `_FLAGS`."""
    sha256: str


def read_voc(source: Source) -> RawAnnotations:
    """Read a folder of XML files; an image's file is its ``filename``, in the images folder.

    Images are numbered from 0 in the order of their XML files. The vocabulary is the names in all
    XML files, sorted, whatever the split, or the list of ``classes_path``.
    """
    folder = _annotations_dir(source.path)
    paths = sorted(folder.glob("*.xml"))
    if not paths:
        raise AnnotationError(
            f"{folder} holds no XML file; wanted one for each image. Set --annotations.path to the"
            " folder of the XML files."
        )
    images = [_read_image(path) for path in paths]
    _check_distinct(images, paths)
    vocabulary = (
        _vocabulary_of(images, folder)
        if source.options.classes_path is None
        else Vocabulary.from_file(source.options.classes_path)
    )
    rows = _of_split(folder, paths, source.options.split)
    return _columns([images[row] for row in rows], rows, vocabulary)


def _check_distinct(images: Sequence[_Image], paths: Sequence[Path]) -> None:
    first: dict[str, Path] = {}
    for image, path in zip(images, paths, strict=True):
        other = first.setdefault(image.file_name, path)
        if other != path:
            raise AnnotationError(
                f"{other} and {path} both have the <filename> {image.file_name}. Give each image"
                " one XML file, and name the image in it."
            )


def _columns(
    images: Sequence[_Image], ids: Sequence[int], vocabulary: Vocabulary
) -> RawAnnotations:
    columns = GrowingColumns(
        image_rows=np.int32, labels=np.int32, boxes_xyxy=(np.float32, 4), faults=np.int8
    )
    labels = {name: label for label, name in enumerate(vocabulary)}
    for row, image in enumerate(images):
        corners = np.array(image.boxes_xyxy, np.float64).reshape(-1, 4) - [1, 1, 0, 0]
        boxes_xyxy, faults = check_boxes(corners, "xyxy")
        columns.add(
            image_rows=np.full(len(corners), row),
            labels=[labels.get(name, -1) for name in image.names],
            boxes_xyxy=boxes_xyxy,
            faults=faults,
        )
    sizes_hw = [image.size_hw for image in images if image.size_hw is not None]
    listed = ImageColumns.from_file_names(
        (image.file_name for image in images),
        np.array(sizes_hw, np.int64) if len(sizes_hw) == len(images) else None,
    )
    places = [place for image in images for place in image.places]
    return RawAnnotations(
        images=ImageColumns(
            ids=np.array(ids, np.int64),
            keys=listed.keys,
            file_names=listed.file_names,
            sizes_hw=listed.sizes_hw,
        ),
        vocabulary=vocabulary,
        category_ids=tuple(range(len(vocabulary))),
        **columns.pop_all("image_rows", "labels", "boxes_xyxy", "faults"),
        marks={},
        sha256s=(
            sha256_bytes(canonical_json({i.file_name: i.sha256 for i in images}).encode()),
            vocabulary.sha256,
        ),
        box_layout="xyxy",
        entries="objects",
        show=partial(_place, places),
        notes=tuple(
            f"{count:,} objects are {flag} (kept)"
            for flag, count in zip(_FLAGS, _sums(images), strict=True)
            if count
        ),
    )


def _sums(images: Sequence[_Image]) -> list[int]:
    return np.array([image.flags for image in images]).sum(axis=0).tolist()


def _place(places: Sequence[str], position: int) -> str:
    return places[position]


def _annotations_dir(path: Path) -> Path:
    """Return the folder of the XML files: ``path``, or its folder ``Annotations``."""
    if not path.exists():
        raise MissingFileError(
            f"{path} does not exist. Set --annotations.path to the folder of the XML files."
        )
    if not path.is_dir():
        raise wrong_file(path, "voc", "the folder of the XML files (Annotations)")
    below = path / ANNOTATIONS_DIR
    return below if below.is_dir() else path


def split_list(folder: Path, split: str) -> Path:
    """Return the list of the images of a split, given the folder of the XML files."""
    return Path(os.path.abspath(folder)).parent / "ImageSets" / "Main" / f"{split}.txt"  # noqa: PTH100


def _of_split(folder: Path, paths: Sequence[Path], split: str | None) -> list[int]:
    """Return the positions of the XML files of a split, ascending; all without a split."""
    if split is None:
        return list(range(len(paths)))
    listed = split_list(folder, split)
    if not is_file(listed):
        raise ConfigError(
            f"--annotations.split is {split}, but there is no {listed}. Leave it out to take all"
            f" XML files in {folder}."
        )
    positions = {path.stem: number for number, path in enumerate(paths)}
    chosen = set()
    for number, line in enumerate(listed.read_text(encoding="utf-8-sig").splitlines(), start=1):
        name = line.strip()
        if name and name not in positions:
            raise AnnotationError(
                f"{listed}, line {number}: there is no {folder / name}.xml. Wanted one name of an"
                " XML file per line, without .xml."
            )
        if name:
            chosen.add(positions[name])
    if not chosen:
        raise AnnotationError(f"{listed} lists no image.")
    return sorted(chosen)


def _vocabulary_of(images: Sequence[_Image], folder: Path) -> Vocabulary:
    names = sorted({name for image in images for name in image.names})
    if not names:
        raise AnnotationError(
            f"{folder}: none of its {len(images):,} XML files has an object. Give annotations with"
            " objects."
        )
    return Vocabulary.from_names(names)


def _read_image(path: Path) -> _Image:
    data = path.read_bytes()
    root = _parse(data, path)
    if root.tag != "annotation":
        raise AnnotationError(
            f"{path} is an XML file with the root <{root.tag}>; wanted <annotation>, as in Pascal"
            " VOC."
        )
    file_name = (root.findtext("filename") or "").strip()
    if not file_name:
        raise AnnotationError(f"{path} has no <filename>; wanted the name of the image.")
    objects = root.findall("object")
    return _Image(
        file_name=file_name,
        size_hw=_size_hw(root, path),
        names=[_name(one, path) for one in objects],
        boxes_xyxy=[[_number(one, side, path) for side in _SIDES] for one in objects],
        places=[f"{path}, line {one.get(_LINE)}" for one in objects],
        flags=(_count(objects, _FLAGS[0]), _count(objects, _FLAGS[1])),
        sha256=sha256_bytes(data),
    )


def _size_hw(root: ET.Element, path: Path) -> tuple[int, int] | None:
    """Return the size of the image; None if it is missing or 0, as some tools write it."""
    texts = [root.findtext(f"size/{name}") for name in ("height", "width")]
    if not all(texts):
        return None
    try:
        height, width = (int(float(text or "")) for text in texts)
    except (ValueError, OverflowError) as error:
        raise AnnotationError(
            f"{path}: the size of the image is {' x '.join(map(str, texts))} (height, width);"
            " wanted two numbers of pixels."
        ) from error
    return (height, width) if min(height, width) > 0 else None


def _name(one: ET.Element, path: Path) -> str:
    name = (one.findtext("name") or "").strip()
    if not name:
        raise AnnotationError(f"{path}, line {one.get(_LINE)}: the object has no <name>.")
    return name


def _number(one: ET.Element, side: str, path: Path) -> float:
    text = one.findtext(f"bndbox/{side}")
    try:
        return float(text or "")
    except ValueError as error:
        raise AnnotationError(
            f"{path}, line {one.get(_LINE)}: {side} of the object's <bndbox> is {text!r}; wanted a"
            " number of pixels."
        ) from error


def _count(objects: Sequence[ET.Element], flag: str) -> int:
    return sum((one.findtext(flag) or "").strip() == "1" for one in objects)


def _parse(data: bytes, path: Path) -> ET.Element:
    """Parse XML; each element gets its line as an attribute.

    Document types are refused, since their entities can expand to gigabytes.
    """
    builder = ET.TreeBuilder()
    parser = expat.ParserCreate()

    def start(tag: str, _: dict[str, str]) -> None:
        builder.start(tag, {_LINE: str(parser.CurrentLineNumber)})

    def refuse(*_: object) -> NoReturn:
        raise AnnotationError(
            f"{path} has a document type (<!DOCTYPE>), which annotations do not need. Remove it."
        )

    parser.StartElementHandler = start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(data, True)  # noqa: FBT003 - the end of the document
    except expat.ExpatError as error:
        raise AnnotationError(
            f"{path}, line {error.lineno} is not XML ({expat.ErrorString(error.code)}). Export the"
            " file again."
        ) from error
    return builder.close()
