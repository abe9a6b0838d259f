"""``regionspot recognize``: name the regions of images."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jsonargparse import Namespace
from tqdm import tqdm

from regionspot.backbones import GridProposer, SameTokens
from regionspot.backbones.decode_images import MAX_PIXELS
from regionspot.cli.options import (
    HEAD_HELP,
    TEMPLATES_HELP,
    VOCABULARY_HELP,
    CommandParser,
    prepare_parsing,
)
from regionspot.cli.run import reported_errors
from regionspot.cli.values import parse_rows, picture_path
from regionspot.core.errors import ConfigError
from regionspot.core.files import folder_lock, open_atomic, sha256_file
from regionspot.core.stopping import stop_advice

if TYPE_CHECKING:
    from regionspot.cli.recognize_batches import BatchNamer
    from regionspot.cli.recognize_inputs import ImageJob
    from regionspot.cli.recognize_outputs import OutputFormat, Record, RecordMaker
    from regionspot.inference import Regions

_RESUME = "finished images are kept; run the same command again to continue"
_WAIT = "Wait for it to end, or give another --output."


@reported_errors()
def recognize(words: Sequence[str]) -> None:
    """Name the regions of images.

    Of one image, with ``--boxes``, ``--points`` or ``--everything``, prints a table. Of several
    images or folders, with ``--coco``, ``--csv`` or ``--everything``, prints a JSON line for each
    image, or writes ``--format`` to the folder ``--output``; the same command continues an
    interrupted one. Exits with 0 if all images were recognized, with 1 if some could not be used,
    and with 2 for a mistake in the options.
    """
    parser = _parser()
    options = parser.instantiate(parser.parse_args(words))
    if not options.images:
        raise ConfigError("no image is given: name image files or folders.")
    is_one = len(options.images) == 1 and not Path(options.images[0]).is_dir()
    if is_one and options.format is None and not (options.coco or options.csv):
        _print_table(options)
    else:
        _write_many(options)


def _print_table(options: Namespace) -> None:
    """Print the regions of one image, and write a picture."""
    # In order of cost: mistakes are reported before SAM and CLIP are loaded, which takes long.
    output = None if options.output is None else picture_path(options.output)
    (job,) = _jobs(options)
    regions = _namer(options, with_masks=output is not None).name_one(job)
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


def _write_many(options: Namespace) -> None:
    """Write the regions of many images; go on after those that cannot be used."""
    from regionspot.cli.recognize_outputs import FILE_NAMES, RecordMaker, write_records
    from regionspot.cli.recognize_resume import UnfinishedRun

    kind: OutputFormat = options.format or "json"
    folder = _output_folder(options)
    jobs = _jobs(options)
    namer = _namer(options, with_masks=kind == "png")
    maker = RecordMaker(kind, folder)
    if folder is None:
        write_records(kind, sys.stdout.buffer, _records(jobs, namer, maker))
    else:
        path = folder / f"unfinished_{kind}.jsonl"
        with folder_lock(folder, advice=_WAIT), stop_advice(_RESUME):
            images = [str(job.path) for job in jobs]
            run = UnfinishedRun(path, _settings(options, namer), images)
            if run.done:
                print(f"{len(run.done):,} images were finished before", file=sys.stderr)
            todo = [job for job in jobs if str(job.path) not in run.done]
            for record in _records(todo, namer, maker):
                run.add(record)
            if kind in FILE_NAMES:
                with open_atomic(folder / FILE_NAMES[kind]) as file:
                    write_records(kind, file, run.records())
            run.remove()
    if maker.num_failed:
        print(f"{maker.num_failed:,} of {len(jobs):,} images could not be used", file=sys.stderr)
        raise SystemExit(1)


def _records(
    jobs: "Sequence[ImageJob]", namer: "BatchNamer", maker: "RecordMaker"
) -> "Iterator[Record]":
    """Name the regions of images, with a progress bar and a message for each failed image."""
    bar = tqdm(total=len(jobs), unit=" images", disable=None)
    with bar, closing(namer.name_all(jobs)) as named:
        for job, found in named:
            if isinstance(found, Exception):
                print(f"error: {job.path}: {found}", file=sys.stderr)
            yield maker.record(job, found)
            bar.update()


def _namer(options: Namespace, *, with_masks: bool) -> "BatchNamer":
    # Imported here, so that a missing package of the extra is reported without a traceback.
    from regionspot.cli.recognize_batches import BatchNamer

    return BatchNamer(options, with_masks=with_masks)


def _settings(options: Namespace, namer: "BatchNamer") -> dict[str, object]:
    """Return what the regions of an image depend on, by option."""
    boxes_of = {
        name: options[name] and sha256_file(Path(options[name])) for name in ("coco", "csv")
    }
    return boxes_of | {
        "model": namer.trained_head.sha256,
        "boxes": options.boxes,
        "points": options.points,
        "everything": options.everything,
        "grid": asdict(options.grid),
        "vocabulary": namer.vocabulary and namer.vocabulary.sha256,
        "templates": options.templates,
        "same_tokens": options.same_tokens,
        "top_k": options.top_k,
    }


def _jobs(options: Namespace) -> "list[ImageJob]":
    """Return the images with their boxes or points, or with none for SAM to find."""
    from regionspot.cli.recognize_inputs import list_images, read_boxes, with_boxes

    given = _given(options)
    if given != "everything" and options.grid != GridProposer():
        raise ConfigError(f"--grid requires --everything; found --{given}.")
    jobs = list_images(options.images)
    if given == "everything":
        return jobs
    if given in {"coco", "csv"}:
        return with_boxes(jobs, read_boxes(Path(options[given]), given))
    if len(jobs) > 1:
        raise ConfigError(
            f"--{given} is for the regions of one image; found {len(jobs)} images. Give the boxes"
            " of several images with --csv or --coco."
        )
    rows = parse_rows(options[given], 4 if given == "boxes" else 2, option=f"--{given}")
    numbers = np.array(rows, np.float32)
    if given == "boxes":
        return [replace(jobs[0], boxes_xyxy=numbers)]
    return [replace(jobs[0], points_xy=numbers)]


def _output_folder(options: Namespace) -> Path | None:
    if options.output is None:
        if options.format == "png":
            raise ConfigError("--format png writes files; wanted a folder in --output.")
        return None
    folder = Path(options.output)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--output {folder} is a file; wanted a folder, for several images.")
    return folder


def _given(options: Namespace) -> str:
    """Return which option says where the regions are."""
    names = ("boxes", "points", "coco", "csv", "everything")
    found = [name for name in names if options[name]]
    if len(found) != 1:
        shown = " and ".join(f"--{name}" for name in found) or "none of them"
        raise ConfigError(
            f"found {shown}; wanted exactly one of --boxes or --points, which say where the"
            " regions are (--coco or --csv for several images), or --everything, which lets SAM"
            " find them."
        )
    return found[0]


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
        "--batch_size",
        type=int,
        default=4,
        help="Number of images that the models process at once; with --everything, always one.",
    )
    parser.add_argument(
        "--format",
        choices=("json", "csv", "coco", "png"),
        help="What to write of the images: JSON lines, CSV rows, a COCO file, or a picture of each"
        " (only to --output). By default a table of one image, and JSON lines of several.",
    )
    parser.add_argument(
        "--max_image_pixels",
        type=int,
        default=MAX_PIXELS,
        help="Refuse image files with more pixels, height times width: half a megabyte of PNG can"
        " decode to more than fits in memory. The default is Pillow's own, and the least.",
    )
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or cuda:N.")
    parser.add_argument(
        "--sam_weights", type=str, help="Weights file; by default the released one."
    )
    parser.add_argument("--clip_weights", type=str, help="Weights file; by default CLIP's own.")
    return parser
