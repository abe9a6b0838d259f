"""``regionspot demo``: a page that names any region of a picture."""

import io
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from regionspot.cli.options import CommandParser, prepare_parsing
from regionspot.cli.run import reported_errors
from regionspot.cli.search import draw_hits, opened_index
from regionspot.cli.values import parse_vocabulary
from regionspot.core.errors import ConfigError, MissingFileError

if TYPE_CHECKING:
    from regionspot.demo.search_tab import Search
    from regionspot.inference import Calibration, RegionIndex, RegionSpot

_DEFAULT_MODEL = "runs/quickstart"
_NUM_HITS = 20
_CALIBRATION_IMAGES = 200  # some seconds on a CPU
_ANY_CALIBRATION_ERROR = (ConfigError, MissingFileError)


@reported_errors()
def serve_demo(words: Sequence[str]) -> None:
    """Serve a page that names any region of a picture, until Ctrl-C.

    Draw boxes, click points or let SAM propose regions; change the words; add regions as examples
    of names; download the answers. The page needs no network and is reachable from this machine
    only, unless ``--host`` says otherwise.
    """
    options = _parser().parse_args(words)
    _check(options)
    vocabulary = None if options.vocabulary is None else parse_vocabulary(options.vocabulary)
    # Imported here, so that a missing package of the extra is reported without a traceback.
    from regionspot.demo import Answers, Limits, write_toy_pictures

    limits = Limits(**vars(options.limits))
    from regionspot.demo.page import Page
    from regionspot.demo.server import check_free, serve_until_stopped
    from regionspot.inference import RegionSpot

    check_free(options.host, options.port)
    model = RegionSpot.from_pretrained(
        options.model,
        device=options.device,
        sam_weights=options.sam_weights,
        clip_weights=options.clip_weights,
    )
    names = model.vocabulary if vocabulary is None else vocabulary
    model.choose_names(names)  # embeds the words, or refuses them
    with ExitStack() as stack:
        search, calibration = None, None
        if options.cache is not None:
            index = stack.enter_context(opened_index(_search_options(options)))
            search = _searcher(model, index, options.images_dir)
            calibration = _calibration(model, options.cache)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="regionspot-demo-")))
        page = Page(
            Answers(model, limits=limits, calibration=calibration),
            words=names.names,
            pictures=write_toy_pictures(folder),
            folder=folder,
            search=search,
        )
        serve_until_stopped(page, host=options.host, port=options.port, limits=limits)


def _check(options: Namespace) -> None:
    """Refuse mistakes before SAM and CLIP are loaded, which takes long."""
    if options.model == _DEFAULT_MODEL and not Path(_DEFAULT_MODEL).exists():
        raise MissingFileError(
            f"there is no trained head at {_DEFAULT_MODEL}. Type regionspot quickstart, which"
            " trains one in minutes, or give another one with --model."
        )
    if options.images_dir is not None and options.cache is None:
        raise ConfigError("--images_dir requires --cache, whose images are in it.")


def _search_options(options: Namespace) -> Namespace:
    return Namespace(
        cache=options.cache,
        head=options.model,
        index=None,
        backend="exact",
        device=options.device,
        clip_weights=options.clip_weights,
    )


def _searcher(model: "RegionSpot", index: "RegionIndex", images_dir: str | None) -> "Search":
    """Return what the tab for searching calls."""
    from PIL import Image

    from regionspot.demo import check_words

    def search(words: str) -> "tuple[str, Image.Image | None]":
        if not words.strip():
            raise ConfigError("there are no words to search for: type some.")
        check_words([words], model.known_words)
        hits = model.search(index, words.strip(), top=_NUM_HITS)
        rows = ["| rank | region | score | label |", "|---|---|---|---|"]
        for rank, hit in enumerate(hits, start=1):
            region = f"{hit.key}:{hit.region}"
            rows.append(f"| {rank} | {region} | {hit.score:.3f} | {hit.label or '-'} |")
        if images_dir is None or not hits:
            return "\n".join(rows), None
        sheet = draw_hits(hits, Path(images_dir), index, picture_format="jpeg")
        return "\n".join(rows), Image.open(io.BytesIO(sheet))

    return search


def _calibration(model: "RegionSpot", location: str) -> "Calibration | None":
    """Measure on a labelled cache what examples need beside words; None if it has no labels."""
    from regionspot.cache import FeatureCache
    from regionspot.inference import has_index

    if has_index(location):
        return None
    try:
        with FeatureCache.open(location) as cache:
            return model.calibrate(cache, max_images=_CALIBRATION_IMAGES)
    except _ANY_CALIBRATION_ERROR as error:
        print(f"examples are compared without words: {error}")
        return None


def _parser() -> CommandParser:
    prepare_parsing()
    from regionspot.demo import Limits

    parser = CommandParser(prog="regionspot demo", description=serve_demo.__doc__)
    parser.add_argument(
        "--model",
        type=str,
        default=_DEFAULT_MODEL,
        help="Folder of a run or a trained head; a .ckpt; or hf://owner/name.",
    )
    parser.add_argument(
        "--cache",
        type=str,
        help="Feature cache, or its region index, to search on the page. With a labelled cache,"
        " examples can be used beside words.",
    )
    parser.add_argument(
        "--images_dir", type=str, help="Folder of the cache's images, to show what is found."
    )
    parser.add_argument(
        "--vocabulary",
        type=str,
        help="Words at first: names separated by commas, or a file with one name per line; by"
        " default the names that the head was trained on.",
    )
    parser.add_argument(
        "--host",
        type=str,
        default="127.0.0.1",
        help="Address to listen on. Any other than 127.0.0.1 lets other machines use the page,"
        " without a password.",
    )
    parser.add_argument("--port", type=int, default=7860, help="Port to listen on.")
    parser.add_class_arguments(Limits, "limits")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or cuda:N.")
    parser.add_argument(
        "--sam_weights", type=str, help="Weights file; by default the released one."
    )
    parser.add_argument("--clip_weights", type=str, help="Weights file; by default CLIP's own.")
    return parser
