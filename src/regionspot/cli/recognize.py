"""``regionspot recognize``: name the regions of one image."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace
from numpy.typing import ArrayLike

from regionspot.backbones import GridProposer, SameTokens, check_templates
from regionspot.cli.options import prepare_parsing
from regionspot.cli.run import reported_errors
from regionspot.core.errors import ConfigError, MissingFileError, VocabularyError
from regionspot.core.files import is_file
from regionspot.core.vocabulary import Vocabulary

if TYPE_CHECKING:
    from regionspot.inference import Regions

_LIST_FILE = re.compile(r"\.(txt|text|csv|tsv|json|ya?ml|names|lst|list|md)$", re.IGNORECASE)


@reported_errors()
def recognize(words: Sequence[str]) -> None:
    """Name the regions of one image and print a table."""
    parser = _parser()
    options = parser.instantiate(parser.parse_args(words))
    # In order of cost: mistakes are reported before SAM and CLIP are loaded, which takes long.
    output = None if options.output is None else _picture_path(options.output)
    boxes, points = _prompts(options)
    vocabulary = parse_vocabulary(options.vocabulary) if options.vocabulary else None
    if options.templates is not None:
        check_templates(options.templates)
    if not is_file(options.image):
        raise MissingFileError(f"no image file at {options.image}: check --image.")
    regions = _recognize(options, boxes, points, vocabulary)
    print(format_table(regions))
    if options.everything and len(regions) == 0:
        print(
            "SAM proposed no regions: lower --grid.pred_iou_thresh or"
            " --grid.stability_score_thresh."
        )
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        regions.plot().save(output)
        print(f"picture: {output}")


def _recognize(
    options: Namespace,
    boxes: list[list[float]] | None,
    points: list[list[float]] | None,
    vocabulary: Vocabulary | None,
) -> "Regions":
    # Imported here, so that a missing package of the extra is reported without a traceback.
    from regionspot.backbones import BoxPrompts
    from regionspot.inference import RegionSpot, load_image
    from regionspot.inference.inputs import as_count
    from regionspot.inference.matching_models import exif_policy_of, load_matching_models
    from regionspot.inference.prompts import read_prompts
    from regionspot.model import load_trained_head

    as_count(options.top_k, name="top_k")
    trained_head = load_trained_head(options.model)
    pixels = load_image(options.image, exif_policy=exif_policy_of(trained_head.card))
    checked_boxes: ArrayLike | None = None
    if not options.everything:
        size_hw = (pixels.shape[0], pixels.shape[1])
        prompts = read_prompts(boxes=boxes, points=points, masks=None, size_hw=size_hw)
        if isinstance(prompts, BoxPrompts):
            checked_boxes = prompts.boxes_xyxy  # already clipped, so that clipping is logged once
    models = load_matching_models(
        trained_head,
        device=options.device,
        sam_weights=options.sam_weights,
        clip_weights=options.clip_weights,
    )
    model = RegionSpot(trained_head, models)
    common: dict[str, Any] = {
        "vocabulary": vocabulary,
        "templates": options.templates,
        "same_tokens": options.same_tokens,
        "top_k": options.top_k,
        "with_masks": options.output is not None,
    }
    if options.everything:
        return model.recognize_everything(pixels, grid=options.grid, **common)
    return model.recognize(pixels, boxes=checked_boxes, points=points, **common)


def _prompts(options: Namespace) -> tuple[list[list[float]] | None, list[list[float]] | None]:
    """Return boxes or points, or neither with ``--everything``."""
    found = [f"--{name}" for name in ("boxes", "points", "everything") if options[name]]
    if len(found) != 1:
        raise ConfigError(
            f"found {' and '.join(found) or 'none of them'}; wanted exactly one of --boxes or"
            " --points, which say where the regions are, or --everything, which lets SAM find them."
        )
    if not options.everything and options.grid != GridProposer():
        raise ConfigError(f"--grid requires --everything; found {found[0]}.")
    return (
        parse_rows(options.boxes, 4, option="--boxes") if options.boxes else None,
        parse_rows(options.points, 2, option="--points") if options.points else None,
    )


_ROW_HELP = {
    2: 'Wanted x,y in pixels of the image, for instance "45,55 20,30".',
    4: 'Wanted x1,y1,x2,y2 in pixels of the image, for instance "10,20,80,90 15,5,40,60".',
}


def parse_rows(text: str, num_values: int, *, option: str) -> list[list[float]]:
    """Parse rows of comma-separated numbers, which spaces or semicolons separate.

    Args:
        text: For instance ``"10,20,80,90 15,5,40,60"``.
        num_values: Numbers in a row, 2 or 4.
        option: Name of the option, for messages.

    Raises:
        ConfigError: A row has another number of values, or a value is not a number.
    """
    rows = [row.split(",") for row in text.replace(";", " ").split()]
    try:
        numbers = [[float(value) for value in row] for row in rows]
    except ValueError as error:
        raise ConfigError(f"{option} {text!r}: {error}. {_ROW_HELP[num_values]}") from error
    for row in numbers:
        if len(row) != num_values:
            raise ConfigError(
                f"{option} {text!r} has a row of {len(row)} numbers. {_ROW_HELP[num_values]}"
            )
    return numbers


def parse_vocabulary(text: str) -> Vocabulary:
    """Parse comma-separated names, or read a file with one name per line.

    Raises:
        MissingFileError: The text looks like a path, and there is no file.
        VocabularyError: A name is empty or repeated, or commas do not separate the names.
    """
    names = [name.strip() for name in text.split(",")]
    # Slashes may occur in names, as in "cabinet/shelf" of Objects365.
    looks_like_path = any(map(_LIST_FILE.search, names)) or (
        len(names) == 1 and any(mark in text for mark in "/\\~")
    )
    if is_file(text) or looks_like_path:
        return Vocabulary.from_file(Path(text))
    if len(names) == 1 and any(mark in text for mark in ";|\t\n"):
        raise VocabularyError(
            f"--vocabulary {text!r} is one name; wanted names separated by commas, for instance"
            ' "red heart, sea egg", or a file with one name a line.'
        )
    return Vocabulary.from_names(names)


def format_table(regions: "Regions") -> str:
    """Format a table with a line per region: number, box, names and scores in percent."""
    rows: list[tuple[str, ...]] = [("region", "x1", "y1", "x2", "y2", "names and scores in %")]
    for index, (box, labels, scores) in enumerate(
        zip(regions.boxes_xyxy, regions.top_labels, regions.top_scores, strict=True)
    ):
        names = ", ".join(
            f"{label} {100 * score:.1f}" for label, score in zip(labels, scores, strict=True)
        )
        rows.append((str(index), *(f"{value:.0f}" for value in box), names))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return "\n".join(
        "  ".join(
            [*(cell.rjust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]
        ).rstrip()
        for row in rows
    )


def _picture_path(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() not in {".png", ".jpg", ".jpeg", ".webp"}:
        raise ConfigError(f"--output {text}: wanted a name that ends in .png, .jpg or .webp.")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if path.is_dir() or not above.is_dir():
        found = path if path.is_dir() else above
        raise ConfigError(
            f"--output {text}: {found} is a {'folder' if found == path else 'file'}; wanted the"
            " name of a picture, in a folder that exists or can be created."
        )
    if not os.access(above, os.W_OK):
        raise ConfigError(f"--output {text}: this user may not write to {above}.")
    return path


def _parser() -> ArgumentParser:
    prepare_parsing()
    parser = ArgumentParser(prog="regionspot recognize", description=recognize.__doc__)
    parser.add_argument(
        "--model", type=str, required=True, help="Folder of a run or a trained head; or a .ckpt."
    )
    parser.add_argument("--image", type=str, required=True, help="Image file.")
    parser.add_argument(
        "--boxes",
        type=str,
        help="Boxes x1,y1,x2,y2 in pixels of the image, separated by spaces or semicolons.",
    )
    parser.add_argument(
        "--points", type=str, help="Instead of boxes: one point x,y for each region."
    )
    parser.add_argument(
        "--everything",
        action="store_true",
        help="Instead of boxes: let SAM propose regions. Scores are multiplied by SAM's confidence"
        " in the region and sorted in descending order.",
    )
    parser.add_class_arguments(GridProposer, "grid")
    parser.add_argument(
        "--vocabulary",
        type=str,
        help="Names separated by commas, or a file with one name per line; by default the names"
        " that the head was trained on.",
    )
    parser.add_argument("--top_k", type=int, default=3, help="Number of names for each region.")
    parser.add_argument(
        "--templates",
        type=str,
        help="Template set: ensemble81, ensemble80, single or none; by default that of training.",
    )
    parser.add_argument(
        "--same_tokens",
        type=SameTokens,
        default="keep",
        help="How to treat names that CLIP cannot tell apart, such as Dog and dog: keep all, which"
        " share their probability; merge them under the first; or refuse them.",
    )
    parser.add_argument("--output", type=str, help="Picture of the named regions to write.")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or cuda:N.")
    parser.add_argument(
        "--sam_weights", type=str, help="Weights file; by default the released one."
    )
    parser.add_argument("--clip_weights", type=str, help="Weights file; by default CLIP's own.")
    return parser
