"""``regionspot index`` and ``regionspot search``: find regions of a cache by words."""

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import ArgumentParser, Namespace

from regionspot.backbones import check_templates
from regionspot.cache import FeatureCache
from regionspot.cli.options import HEAD_HELP, TEMPLATES_HELP, prepare_parsing
from regionspot.cli.run import reported_errors, show_progress
from regionspot.cli.values import picture_path
from regionspot.cli.verify import table
from regionspot.core.errors import ConfigError, MissingFileError
from regionspot.core.files import write_bytes_atomic
from regionspot.storage import is_url

if TYPE_CHECKING:
    from regionspot.inference import Hit, RegionIndex

_MAX_REGIONS = 20_000  # embedded on the fly: some seconds with the toy head
_SHEET_COLUMNS = 5
_PICTURES: dict[str, Literal["png", "jpeg"]] = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg"}


@reported_errors()
def index_regions(words: Sequence[str]) -> None:
    """Embed every region of a cache by a head, once, for ``regionspot search``.

    A stopped command continues where it was, and damaged parts of an index are made again.
    """
    show_progress()
    parser = _parser("index", index_regions.__doc__)
    parser.add_argument("--head", type=str, required=True, help=HEAD_HELP)
    parser.add_argument(
        "--output", type=str, help="Folder of the index; by default <cache>.index beside the cache."
    )
    parser.add_argument(
        "--faiss",
        type=str,
        help="Also make an approximate index of this kind, a factory string of faiss such as"
        " IVF1024,SQfp16, for `regionspot search --backend faiss` (extra search).",
    )
    parser.add_argument("--batch_size", type=int, default=16, help="Images embedded at once.")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or cuda:N.")
    options = parser.parse_args(words)
    from regionspot.backbones import resolve_device
    from regionspot.inference import RegionIndex, build_region_index, write_faiss
    from regionspot.model import load_trained_head

    folder = Path(options.output) if options.output else _beside(options.cache, "--output")
    device = resolve_device(options.device)
    with FeatureCache.open(options.cache) as cache:
        _check_regions(cache)
        build_region_index(
            load_trained_head(options.head),
            cache,
            folder,
            batch_size=options.batch_size,
            device=device,
        )
    index = RegionIndex.open(folder)
    if options.faiss is not None:
        write_faiss(folder, index.card, options.faiss)
    print(f"{folder}: {len(index):,} regions of {index.num_images:,} images")


@reported_errors()
def search_regions(words: Sequence[str]) -> None:
    """Find regions of a cache by words, or regions that resemble one of them.

    Prints a table, best first, or JSON with ``--json``. Only the CLIP of the head is loaded, for
    the words. Without an index, small caches are embedded on the fly by the head.
    """
    show_progress()
    options = _search_parser().parse_args(words)
    # In order of cost: mistakes are reported before CLIP is loaded, which takes long.
    if (options.words is None) == (options.like is None):
        raise ConfigError(
            'wanted either words, such as "a red lantern", or --like KEY:REGION;'
            f" found {'neither' if options.words is None else 'both'}."
        )
    if options.templates is not None:
        check_templates(options.templates)
    picture = None
    if options.save is not None:
        picture = picture_path(options.save, option="--save", suffixes=tuple(_PICTURES))
    if picture is not None and options.images_dir is None:
        raise ConfigError("--save requires --images_dir, the folder of the cache's images.")
    from regionspot.inference import RegionFilter

    only = RegionFilter(
        images=_listed(options.images) if options.images else None,
        not_labelled=_listed(options.not_labelled) if options.not_labelled else (),
        min_score=options.min_score,
    )
    with opened_index(options) as index:
        if options.like is None:
            hits = index.search(
                options.words, top=options.top, templates=options.templates, only=only
            )
        else:
            hits = index.similar(_region(options.like), top=options.top, only=only)
        print(_as_json(hits) if options.json else _as_table(hits))
        if picture is not None and hits:
            kind = _PICTURES[picture.suffix.lower()]
            sheet = draw_hits(hits, Path(options.images_dir), index, picture_format=kind)
            write_bytes_atomic(picture, sheet)
            if not options.json:
                print(f"picture: {picture}")


@contextmanager
def opened_index(options: Namespace) -> Iterator["RegionIndex"]:
    """Open the index of a cache, or make a temporary one of a small cache.

    Args:
        options: ``cache``, ``head``, ``index``, ``backend``, ``device`` and ``clip_weights``, as
            described in the help of ``regionspot search``.
    """
    # Imported here, so that a missing package of the extra is reported without a traceback.
    from regionspot.inference import IndexSource, RegionIndex, build_region_index, has_index
    from regionspot.model import load_trained_head

    more: dict[str, Any] = {"device": options.device, "clip_weights": options.clip_weights}
    stored = {**more, "backend": options.backend}
    head = None if options.head is None else load_trained_head(options.head)
    if has_index(options.cache):
        index = RegionIndex.open(options.cache, **stored)
        if head is not None:
            index.check_head(head.sha256)
        yield index
        return
    with FeatureCache.open(options.cache) as cache:
        _check_regions(cache)
        folder = Path(options.index) if options.index else _beside(options.cache, "--index")
        if has_index(folder):
            index = RegionIndex.open(folder, **stored)
            head_sha256 = index.card.source.head_sha256 if head is None else head.sha256
            source = IndexSource(head_sha256=head_sha256, cache_sha256=cache.index.contents_sha256)
            index.card.source.check_same(source, where=folder)
            yield index
            return
        num_regions = int(cache.index.num_regions.sum())
        is_too_much = options.backend != "exact" or num_regions > _MAX_REGIONS
        if head is None or options.index or is_too_much:
            place = f" --output {options.index}" if options.index else ""
            raise MissingFileError(
                f"there is no region index at {folder}. Make it, once: regionspot index"
                f" {options.cache} --head {options.head or '<the run of a head>'}{place}"
            )
        with tempfile.TemporaryDirectory() as temporary:
            build_region_index(head, cache, temporary)
            yield RegionIndex.open(temporary, **more)


def _beside(cache: str, option: str) -> Path:
    """Return the usual place of an index."""
    if is_url(cache):
        raise ConfigError(f"the cache {cache} is remote: give a folder for its index, {option}.")
    path = Path(cache).absolute()
    return path.with_name(f"{path.name}.index")


def _check_regions(cache: FeatureCache) -> None:
    if not cache.index.num_regions.sum():
        raise ConfigError(
            f"the cache {cache.location} has {len(cache):,} images and no regions, so there is"
            " nothing to search."
        )


def _listed(text: str) -> list[str]:
    return [name for part in text.split(",") if (name := part.strip())]


def _region(text: str) -> tuple[str, int]:
    key, colon, number = text.rpartition(":")
    if not (key and colon and number.isdecimal()):
        raise ConfigError(
            f"--like {text!r}: wanted KEY:REGION as a search prints them, for example"
            " 000000900000:0."
        )
    return key, int(number)


def _as_json(hits: Sequence["Hit"]) -> str:
    return json.dumps([asdict(hit) for hit in hits], indent=1, ensure_ascii=False)


def _as_table(hits: Sequence["Hit"]) -> str:
    if not hits:
        return "no regions found"
    header = ("rank", "region", "score", "x1", "y1", "x2", "y2", "label")
    rows = [
        (
            str(rank),
            f"{hit.key}:{hit.region}",
            f"{hit.score:.3f}",
            *(f"{value:.0f}" for value in hit.box_xyxy),
            hit.label or "-",
        )
        for rank, hit in enumerate(hits, start=1)
    ]
    return table(header, rows)


def draw_hits(
    hits: Sequence["Hit"],
    images_dir: Path,
    index: "RegionIndex",
    *,
    picture_format: Literal["png", "jpeg"],
) -> bytes:
    """Draw a contact sheet of the regions that a search found.

    Args:
        hits: The regions, at least one.
        images_dir: Folder of the cache's images.
        index: The index that was searched.
        picture_format: Format of the returned file.

    Raises:
        MissingFileError: The folder lacks an image.
    """
    from regionspot.backbones.presets import as_exif_policy
    from regionspot.inference import find_images, load_image
    from regionspot.viz import NamedPhoto, NamedRegion, draw_contact_sheet

    exif_policy = as_exif_policy(str(index.card.fingerprint["exif_policy"]))
    images = find_images(images_dir, {hit.key: hit.file_name for hit in hits})
    photos = [
        NamedPhoto(
            title=f"{rank}: {hit.score:.3f}",
            image=load_image(images[hit.key], exif_policy=exif_policy),
            regions=(NamedRegion(box_xyxy=hit.box_xyxy, name=hit.label or "no label"),),
        )
        for rank, hit in enumerate(hits, start=1)
    ]
    return draw_contact_sheet(photos, max_columns=_SHEET_COLUMNS, picture_format=picture_format)


def _parser(command: str, about: str | None, *, more: str = "") -> ArgumentParser:
    prepare_parsing()
    parser = ArgumentParser(prog=f"regionspot {command}", description=about)
    parser.add_argument("cache", type=str, help=f"Folder or URL of a feature cache{more}.")
    return parser


def _search_parser() -> ArgumentParser:
    parser = _parser("search", search_regions.__doc__, more="; or folder of a region index")
    parser.add_argument(
        "words", type=str, nargs="?", help="A name or a short description of regions."
    )
    parser.add_argument(
        "--like",
        type=str,
        help="Instead of words: KEY:REGION, a region that others should resemble, as a search"
        " prints it. Scores are then cosines.",
    )
    parser.add_argument(
        "--head", type=str, help=f"{HEAD_HELP} By default, the head that the index was made with."
    )
    parser.add_argument(
        "--index", type=str, help="Folder of the index; by default <cache>.index beside the cache."
    )
    parser.add_argument(
        "--backend",
        type=Literal["exact", "faiss"],
        default="exact",
        help="exact compares with every region; faiss with those that its approximate index takes"
        " for near (`regionspot index --faiss`).",
    )
    parser.add_argument("--top", type=int, default=20, help="Number of regions, best first.")
    parser.add_argument("--min_score", type=float, help="Least score, 0 to 1.")
    parser.add_argument("--images", type=str, help="Only these images: keys separated by commas.")
    parser.add_argument(
        "--not_labelled",
        type=str,
        help="Only regions that are not annotated with these class names, separated by commas.",
    )
    parser.add_argument("--templates", type=str, help=TEMPLATES_HELP)
    parser.add_argument("--save", type=str, help="Contact sheet to write; needs --images_dir.")
    parser.add_argument("--images_dir", type=str, help="Folder of the cache's images.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or cuda:N.")
    parser.add_argument("--clip_weights", type=str, help="Weights file; by default CLIP's own.")
    return parser
