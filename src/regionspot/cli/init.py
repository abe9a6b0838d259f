"""``regionspot init``: write the configurations of a user's own data set."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from jsonargparse import Namespace

from regionspot.cli.options import CommandParser
from regionspot.cli.run import reported_errors
from regionspot.core.errors import AnnotationError

if TYPE_CHECKING:
    from regionspot.annotations import AnnotatedImages, FoundAnnotations
    from regionspot.cli.own_configs import Part

VAL_SHARE: Final = 0.2
"""Share of the images that are cut off for validation."""
MAX_VAL_IMAGES: Final = 2000
"""More images would make AP more precise than a data set's own noise."""
_FORMATS = ("coco", "lvis", "csv", "yolo", "voc")
_PRESETS = ("bl", "bb", "bl336", "toy")


@reported_errors()
def init(words: Sequence[str]) -> None:
    """Write the configurations for your own images, and print the commands to run.

    Looks for annotations in the folder (COCO, CSV, YOLO or Pascal VOC), checks their boxes, and
    writes configurations for caching, training and evaluation. If the data set has no validation
    split, a fifth of the images, at most 2,000, is held out. Never overwrites a file that differs.
    """
    options = _parser().parse_args(list(words))
    # Imported here, since the help needs neither torch nor the readers.
    from regionspot.cli.own_configs import commands, write_files

    parts = read_parts(options)
    for name, part in parts.items():
        print(f"{name}: {part.found.path} ({part.found.format}), {part.num_images:,} images")
    for line in parts["train"].annotated.report.lines():
        print(f"  {line}")
    output_dir = Path(options.output_dir or Path("runs") / Path(options.folder).resolve().name)
    preset = options.preset or _default_preset()
    written = write_files(output_dir, parts, preset=preset, folder=options.folder)
    print(f"\nwrote {', '.join(path.name for path in written)} to {output_dir}")
    print(_about_preset(preset))
    print("\nNext:\n")
    print("\n".join(f"  {command}" for command in commands(output_dir)))


def read_parts(options: Namespace) -> dict[str, "Part"]:
    """Find and read the annotations, and cut off a validation part if there is none.

    Returns:
        The parts ``train`` and ``val``.
    """
    from regionspot.annotations import find_annotations
    from regionspot.cli.own_configs import Part

    folder = Path(options.folder)
    found = find_annotations(
        folder,
        format_name=options.format,
        path=None if options.annotations is None else Path(options.annotations),
    )
    train = _read(found.train, folder, options.images_dir)
    if found.val is None:
        train_names, val_names = split_images(train, seed=options.seed)
        return {
            "train": Part(annotated=train, found=found.train, file_names=train_names),
            "val": Part(annotated=train, found=found.train, file_names=val_names),
        }
    val = _read(found.val, folder, options.images_dir)
    # Formats that number the names they meet would number those of two files differently.
    has_list = found.val.path == found.train.path or found.train.format not in {"csv", "voc"}
    names = None if has_list else tuple(dict.fromkeys([*train.vocabulary, *val.vocabulary]))
    return {
        "train": Part(annotated=train, found=found.train, classes=names),
        "val": Part(annotated=val, found=found.val, classes=names),
    }


def split_images(annotated: "AnnotatedImages", *, seed: int) -> tuple[list[str], list[str]]:
    """Divide images into those to train on and those to validate on.

    A fifth of the images with regions and a fifth of those without are held out, by a hash of seed
    and file name: the same images on every machine, in whatever order they are listed.

    Raises:
        AnnotationError: There are too few images with regions.
    """
    counts = annotated.records.num_regions().tolist()
    names = list(annotated.records.images.file_names)
    boxed = [name for name, count in zip(names, counts, strict=True) if count]
    empty = [name for name, count in zip(names, counts, strict=True) if not count]
    if len(boxed) < 2:
        raise AnnotationError(
            f"{annotated.name} has {len(boxed)} images with regions; wanted 2 or more, to train on"
            " some and validate on others. Annotate more images."
        )
    held_out: set[str] = set()
    for group in (boxed, empty):
        share = min(VAL_SHARE, MAX_VAL_IMAGES / len(names))
        num_val = max(round(share * len(group)), int(group is boxed))
        ranked = sorted(group, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
        held_out.update(ranked[:num_val])
    return [n for n in names if n not in held_out], [n for n in names if n in held_out]


def _read(found: "FoundAnnotations", folder: Path, images_dir: str | None) -> "AnnotatedImages":
    from regionspot.annotations import (
        ReadOptions,
        find_images_dir,
        read_annotations,
        yolo_images_dir,
    )

    place = None if images_dir is None else Path(images_dir)
    if place is None and found.format == "yolo":
        place = yolo_images_dir(found.path)
    options = ReadOptions(split=found.split)
    annotated = read_annotations(found.format, found.path, place, options=options)
    if place is None:
        names = [annotated.records[row].file_name for row in range(min(3, len(annotated.records)))]
        place = find_images_dir(folder, found.path, names)
    return replace(annotated, images_dir=place)


def _default_preset() -> str:
    import torch

    return "bl" if torch.cuda.is_available() else "bb"


def _about_preset(preset: str) -> str:
    if preset == "toy":
        return (
            "The preset toy has two tiny models that only know drawn shapes: it tries out the"
            " pipeline, and its figures mean nothing on photos."
        )
    return (
        f"The preset is {preset}: the weights of SAM and CLIP are downloaded on first use. Without"
        " network access, set models.sam_weights and models.clip_weights in the configurations to"
        " files, or try the pipeline with --preset toy, which needs no weights."
    )


def _parser() -> CommandParser:
    parser = CommandParser(prog="regionspot init", description=init.__doc__)
    parser.add_argument("folder", type=str, help="Folder of the images and their annotations.")
    parser.add_argument(
        "--format",
        choices=_FORMATS,
        default=None,
        help="Format of the annotations; by default detected.",
    )
    parser.add_argument(
        "--annotations",
        type=str,
        default=None,
        help="Annotation file to train on (VOC: folder of XML files), if there are several.",
    )
    parser.add_argument(
        "--images_dir",
        type=str,
        default=None,
        help="Folder that file names are relative to; by default found.",
    )
    parser.add_argument(
        "--output_dir",
        type=str,
        default=None,
        help="Folder to write to, and that the commands will write to; by default runs/<folder>.",
    )
    parser.add_argument(
        "--preset",
        choices=_PRESETS,
        default=None,
        help="Frozen models: bl, bb, bl336 or toy. By default bl with a GPU, and bb without.",
    )
    parser.add_argument("--seed", type=int, default=0, help="Seed of the validation split.")
    return parser
