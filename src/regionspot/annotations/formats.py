"""The table of annotation formats, and the function that reads any of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from regionspot.annotations.assembly import assemble
from regionspot.annotations.classes import mark_other_classes, with_classes
from regionspot.annotations.coco import read_coco
from regionspot.annotations.columns import RawAnnotations
from regionspot.annotations.csv_boxes import read_own_csv
from regionspot.annotations.image_list import with_listed_images
from regionspot.annotations.lvis import read_lvis
from regionspot.annotations.objects365 import read_objects365
from regionspot.annotations.openimages import read_openimages
from regionspot.annotations.options import ReadOptions, Source
from regionspot.annotations.record import AnnotatedImages
from regionspot.annotations.report import Reason
from regionspot.annotations.v3det import read_v3det
from regionspot.annotations.voc import read_voc
from regionspot.annotations.yolo import read_yolo
from regionspot.core.errors import AnnotationError, ConfigError, MissingFileError
from regionspot.core.files import canonical_json, sha256_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """An annotation format."""

    read: Callable[[Source], RawAnnotations]
    """Its reader."""
    options: tuple[str, ...]
    """Fields of `ReadOptions` that it takes, beside those that every format takes."""
    required: Mapping[str, str] = field(default_factory=dict)
    """Those of ``options`` that must be given, and what to set each one to."""
    has_image_ids: bool = True
    """Whether images have ids of their own. If not, they are numbered, and the key of an image is
    its path (see `image_key`)."""


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "coco": Format(read=read_coco, options=("crowds", "prompt")),
        "lvis": Format(read=read_lvis, options=("crowds", "prompt")),
        "objects365": Format(read=read_objects365, options=("crowds",)),
        "openimages": Format(
            read=read_openimages,
            options=("classes_path", "rotations_path", "groups", "depictions"),
            required={"classes_path": "its class descriptions (class-descriptions-boxable.csv)"},
        ),
        "v3det": Format(read=read_v3det, options=("crowds", "tree_path")),
        "csv": Format(read=read_own_csv, options=("classes_path",), has_image_ids=False),
        "yolo": Format(read=read_yolo, options=("split",), has_image_ids=False),
        "voc": Format(read=read_voc, options=("split", "classes_path"), has_image_ids=False),
    }
)
"""The formats. To add one, write its reader in a module of its own and enter it here.

A reader returns `RawAnnotations`: `check_boxes` checks the boxes, `GrowingColumns` collects them,
and `ImageColumns.from_file_names` and `ClassNames` number images and classes that have no ids.
"""

# What ``--annotations.format`` accepts: the keys of the table. mypy wants literals in a Literal.
if TYPE_CHECKING:
    AnnotationFormat = str
else:
    AnnotationFormat = Literal[tuple(FORMATS)]

_OF_ALL_FORMATS = ("classes", "image_list", "implausible")


def check_options(name: AnnotationFormat, options: ReadOptions) -> None:
    """Check that options belong to a format, and that those it requires are given.

    Raises:
        ConfigError: They do not, or one is missing.
    """
    wanted = FORMATS[name]
    allowed = (*wanted.options, *_OF_ALL_FORMATS)
    for option in fields(options):
        if getattr(options, option.name) is not None and option.name not in allowed:
            takers = [other for other, entry in FORMATS.items() if option.name in entry.options]
            raise ConfigError(
                f"--annotations.{option.name} means nothing to the format {name}; it belongs to"
                f" {', '.join(takers)}. Leave it out."
            )
    for required, what in wanted.required.items():
        if getattr(options, required) is None:
            raise ConfigError(
                f"the format {name} requires another file. Set --annotations.{required} to {what}."
            )


def read_annotations(
    format: AnnotationFormat,  # noqa: A002 - the option's name, in code as in configs
    annotations_path: Path,
    images_dir: Path | None,
    *,
    name: str | None = None,
    options: ReadOptions | None = None,
) -> AnnotatedImages:
    """Read a data set's official annotation file.

    Invalid boxes are dropped and boxes that extend beyond their image are clipped; the result's
    ``report`` counts both. Images without regions stay.

    Args:
        format: The file's format.
        annotations_path: The file; of VOC, the folder of the XML files.
        images_dir: Folder that the file names in it are relative to; the images are not opened.
            None if it is not on this machine: then names are not checked.
        name: Name of the data set; the file's name when None.
        options: Further options; the format's defaults when None.

    Raises:
        MissingFileError: A file or the folder does not exist.
        AnnotationError: The file has another format, is damaged, or contradicts itself; or its
            annotations look wrong as a whole.
        VocabularyError: A class name is empty or occurs twice.
        ConfigError: An option does not belong to the format, or one that it needs is missing; or
            a requested class does not exist.
    """
    if format not in FORMATS:
        raise AnnotationError(
            f"there is no annotation format {format!r}. Choose --annotations.format from"
            f" {', '.join(FORMATS)}."
        )
    options = options or ReadOptions()
    check_options(format, options)
    if images_dir is not None and not images_dir.is_dir():
        raise MissingFileError(
            f"there is no images folder at {images_dir}. Set --annotations.images_dir to the folder"
            f" that the file names in {annotations_path} are relative to."
        )
    raw = FORMATS[format].read(
        Source(path=annotations_path, images_dir=images_dir, options=options)
    )
    if options.image_list is not None:
        raw = with_listed_images(raw, options.image_list)
    if isinstance(options.classes, tuple):
        raw = mark_other_classes(raw, options.classes, annotations_path)
    drop = options.dropped & raw.marks.keys()
    records, report = assemble(
        raw,
        path=annotations_path,
        drop=drop,
        implausible=options.implausible or "refuse",
        chose_classes=options.classes_path is not None,
    )
    annotated = AnnotatedImages(
        name=name or annotations_path.stem,
        format=format,
        images_dir=images_dir,
        vocabulary=raw.vocabulary,
        category_ids=raw.category_ids,
        synonyms=raw.synonyms,
        records=records,
        annotation_sha256=_identity(raw.sha256s, drop - {Reason.OTHER_CLASS}),
        report=report,
    )
    return with_classes(annotated, options.classes)


def _identity(sha256s: tuple[str, ...], drop: frozenset[Reason]) -> str:
    """Hash everything that affects the regions; a file alone has the hash of its bytes.

    Requested classes are not part of it, since the vocabulary shows them.
    """
    if len(sha256s) == 1 and not drop:
        return sha256s[0]
    dropped = sorted(reason.name for reason in drop)
    return sha256_bytes(canonical_json({"files": sha256s, "dropped": dropped}).encode())


def identities_of_file(sha256: str) -> frozenset[str]:
    """Return every `AnnotatedImages.annotation_sha256` that one JSON file can have.

    Args:
        sha256: SHA-256 of the file's bytes, in hex.
    """
    return frozenset(_identity((sha256,), frozenset(drop)) for drop in ((), (Reason.CROWD,)))
