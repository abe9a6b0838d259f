"""``regionspot recognize``: name the regions of images."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jsonargparse import Namespace
from numpy.typing import ArrayLike
from tqdm import tqdm

from regionspot.backbones import GridProposer, SameTokens, check_templates
from regionspot.cli.options import (
    HEAD_HELP,
    TEMPLATES_HELP,
    VOCABULARY_HELP,
    CommandParser,
    prepare_parsing,
)
from regionspot.cli.run import reported_errors
from regionspot.cli.values import parse_rows, parse_vocabulary, picture_path
from regionspot.core.errors import ConfigError, MissingFileError, ShapeError
from regionspot.core.files import is_file
from regionspot.core.vocabulary import Vocabulary

if TYPE_CHECKING:
    from regionspot.cli.recognize_inputs import ImageJob
    from regionspot.cli.recognize_outputs import OutputFormat
    from regionspot.inference import Regions


@reported_errors()
def recognize(words: Sequence[str]) -> None:
    """Name the regions of images.

    Of one image, with ``--boxes``, ``--points`` or ``--everything``, prints a table. Of several
    images or folders, with ``--coco``, ``--csv`` or ``--everything``, prints a JSON line for each
    image, or writes ``--format`` to the folder ``--output``. Exits with 0 if all images were
    recognized, with 1 if some could not be used, and with 2 for a mistake in the options.
    """
    parser = _parser()
    options = parser.instantiate(parser.parse_args(words))
    images = [*options.images, *([options.image] if options.image else [])]
    if not images:
        raise ConfigError("no image is given: name image files or folders.")
    is_one = len(images) == 1 and not Path(images[0]).is_dir()
    if is_one and options.format is None and not (options.coco or options.csv):
        _recognize_one(images[0], options)
    else:
        _recognize_many(images, options)


def _recognize_one(image: str, options: Namespace) -> None:
    """Print a table, and write a picture."""
    # In order of cost: mistakes are reported before SAM and CLIP are loaded, which takes long.
    output = None if options.output is None else picture_path(options.output)
    boxes, points = _prompts(options)
    vocabulary = parse_vocabulary(options.vocabulary) if options.vocabulary else None
    if options.templates is not None:
        check_templates(options.templates)
    if not is_file(image):
        raise MissingFileError(f"no image file at {image}: check --image.")
    regions = _recognize(image, options, boxes, points, vocabulary)
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


def _recognize_many(images: Sequence[str], options: Namespace) -> None:
    """Write the regions of many images; go on after those that cannot be used."""
    from regionspot.backbones.decode_images import ImageError
    from regionspot.cli.recognize_outputs import region_writer

    kind: OutputFormat = options.format or "json"
    folder = _output_folder(options)
    jobs = _jobs(images, options)
    vocabulary = parse_vocabulary(options.vocabulary) if options.vocabulary else None
    name_regions = _recognizer(options, vocabulary, with_masks=kind == "png")
    num_failed = 0
    with region_writer(kind, folder) as writer, tqdm(jobs, unit=" images", disable=None) as bar:
        for job in bar:
            try:
                regions = name_regions(job)
            except (ImageError, ShapeError, OSError) as error:
                num_failed += 1
                print(f"error: {job.path}: {error}", file=sys.stderr)
                writer.add_failure(job, str(error))
            else:
                writer.add(job, regions)
    if num_failed:
        print(f"{num_failed:,} of {len(jobs):,} images could not be used", file=sys.stderr)
        raise SystemExit(1)


def _recognizer(
    options: Namespace, vocabulary: Vocabulary | None, *, with_masks: bool
) -> "Callable[[ImageJob], Regions]":
    from regionspot.inference import RegionSpot

    model = RegionSpot.from_pretrained(
        options.model,
        device=options.device,
        sam_weights=options.sam_weights,
        clip_weights=options.clip_weights,
    )
    common: dict[str, Any] = {
        "vocabulary": vocabulary,
        "templates": options.templates,
        "same_tokens": options.same_tokens,
        "top_k": options.top_k,
        "with_masks": with_masks,
    }

    def name_regions(job: "ImageJob") -> "Regions":
        if job.boxes_xyxy is None:
            return model.recognize_everything(job.path, grid=options.grid, **common)
        return model.recognize(job.path, job.boxes_xyxy, **common)

    return name_regions


def _jobs(images: Sequence[str], options: Namespace) -> "list[ImageJob]":
    """Return the images with their boxes, or with none for SAM to find."""
    from regionspot.cli.recognize_inputs import ImageJob, list_images, read_boxes, with_boxes

    given = _given(options, ("boxes", "points", "coco", "csv", "everything"))
    _check_grid(options, given)
    jobs = list_images(images)
    if given == "points" or (given == "boxes" and len(jobs) > 1):
        raise ConfigError(
            f"--{given} is for the regions of one image in a table; found {len(jobs)} images and"
            f" --format {options.format}. Give the boxes of several images with --csv or --coco."
        )
    if given == "boxes":
        boxes_xyxy = np.array(parse_rows(options.boxes, 4, option="--boxes"), np.float32)
        return [ImageJob(path=job.path, name=job.name, boxes_xyxy=boxes_xyxy) for job in jobs]
    if given == "everything":
        return jobs
    return with_boxes(jobs, read_boxes(Path(options[given]), given))


def _output_folder(options: Namespace) -> Path | None:
    if options.output is None:
        if options.format == "png":
            raise ConfigError("--format png writes files; wanted a folder in --output.")
        return None
    folder = Path(options.output)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--output {folder} is a file; wanted a folder, for several images.")
    return folder


def _recognize(
    image: str,
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
    pixels = load_image(image, exif_policy=exif_policy_of(trained_head.card))
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
    _check_grid(options, _given(options, ("boxes", "points", "everything")))
    return (
        parse_rows(options.boxes, 4, option="--boxes") if options.boxes else None,
        parse_rows(options.points, 2, option="--points") if options.points else None,
    )


def _given(options: Namespace, names: Sequence[str]) -> str:
    """Return which option says where the regions are."""
    found = [name for name in names if options[name]]
    if len(found) != 1:
        shown = " and ".join(f"--{name}" for name in found) or "none of them"
        raise ConfigError(
            f"found {shown}; wanted exactly one of --boxes or --points, which say where the"
            " regions are (--coco or --csv for several images), or --everything, which lets SAM"
            " find them."
        )
    return found[0]


def _check_grid(options: Namespace, given: str) -> None:
    if given != "everything" and options.grid != GridProposer():
        raise ConfigError(f"--grid requires --everything; found --{given}.")


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


def _parser() -> CommandParser:
    prepare_parsing()
    parser = CommandParser(prog="regionspot recognize", description=recognize.__doc__)
    parser.add_argument("--model", type=str, required=True, help=HEAD_HELP)
    parser.add_argument("images", nargs="*", type=str, help="Image files, and folders of them.")
    parser.add_argument("--image", type=str, help="One image file, as a further one of the above.")
    parser.add_argument(
        "--boxes",
        type=str,
        help="Boxes x1,y1,x2,y2 in pixels of the image, separated by spaces or semicolons.",
    )
    parser.add_argument(
        "--points", type=str, help="Instead of boxes: one point x,y for each region."
    )
    parser.add_argument(
        "--coco",
        type=str,
        help="COCO file with the boxes of the images; images are found by the end of their path.",
    )
    parser.add_argument(
        "--csv", type=str, help="The same as a CSV file with the columns image,x1,y1,x2,y2."
    )
    parser.add_argument(
        "--everything",
        action="store_true",
        help="Instead of boxes: let SAM propose regions. Scores are multiplied by the score of the"
        " proposed box (predicted IoU times stability) and sorted in descending order.",
    )
    parser.add_class_arguments(GridProposer, "grid")
    parser.add_argument("--vocabulary", type=str, help=VOCABULARY_HELP)
    parser.add_argument("--top_k", type=int, default=3, help="Number of names for each region.")
    parser.add_argument("--templates", type=str, help=TEMPLATES_HELP)
    parser.add_argument(
        "--same_tokens",
        type=SameTokens,
        default="keep",
        help="How to treat names that CLIP cannot tell apart, such as Dog and dog: keep all, which"
        " share their probability; merge them under the first; or refuse them.",
    )
    parser.add_argument(
        "--output",
        type=str,
        help="For a table: picture of the named regions to write. Otherwise: folder to write to.",
    )
    parser.add_argument(
        "--format",
        choices=("json", "csv", "coco", "png"),
        help="What to write of the images: JSON lines, CSV rows, a COCO file, or a picture of each"
        " (only to --output). By default a table of one image, and JSON lines of several.",
    )
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or cuda:N.")
    parser.add_argument(
        "--sam_weights", type=str, help="Weights file; by default the released one."
    )
    parser.add_argument("--clip_weights", type=str, help="Weights file; by default CLIP's own.")
    return parser
