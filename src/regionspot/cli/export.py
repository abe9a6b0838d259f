"""``regionspot export``: a trained head, or all steps from pixels to names, as ONNX files."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from regionspot.backbones import check_templates
from regionspot.cli.options import HEAD_HELP, TEMPLATES_HELP, VOCABULARY_HELP, prepare_parsing
from regionspot.cli.run import reported_errors
from regionspot.cli.values import parse_vocabulary
from regionspot.core.errors import ConfigError
from regionspot.core.text import needs_extra

if TYPE_CHECKING:
    from regionspot.model import TrainedHead

_MODEL_SUFFIX, _BANK_SUFFIX = ".onnx", ".npz"  # regionspot.inference.onnx_files takes long
_OF_NAMES = ("vocabulary", "templates", "sam_weights", "clip_weights")


@reported_errors()
def export(words: Sequence[str]) -> None:
    """Write a trained head as ONNX, for any numbers of images, regions and names.

    ``regionspot export runs/mine --output head.onnx`` writes the head alone. ``regionspot export
    runs/mine --chain true --output exported`` also writes SAM, CLIP's image side, and the
    embeddings of names. ``regionspot export runs/mine --output words.npz --vocabulary words.txt``
    writes embeddings of other names only.
    """
    options = _parser().parse_args(words)
    output = Path(options.output)
    _check_output(options, output)
    vocabulary = None if options.vocabulary is None else parse_vocabulary(options.vocabulary)
    if options.templates is not None:
        check_templates(options.templates)
    # Imported here, so that a missing package of the extra is reported without a traceback.
    with needs_extra("onnx"):
        import onnxscript  # noqa: F401 - before minutes of loading
    from regionspot.inference import RegionSpot, export_chain, export_head, save_text_bank
    from regionspot.inference.matching_models import load_matching_models
    from regionspot.model import load_trained_head

    trained_head: TrainedHead = load_trained_head(options.head)
    if output.suffix == _MODEL_SUFFIX:
        export_head(output, trained_head)
    else:
        models = load_matching_models(
            trained_head,
            device="cpu",
            sam_weights=options.sam_weights,
            clip_weights=options.clip_weights,
        )
        names = RegionSpot(trained_head, models).choose_names(
            vocabulary, templates=options.templates
        )
        if options.chain:
            export_chain(output, trained_head, models, names)
        else:
            save_text_bank(output, names)
    print(f"wrote {output}")


def _check_output(options: Namespace, output: Path) -> None:
    """Refuse an output whose name does not say what to write, or which is in the way."""
    if options.chain:
        if output.suffix in {_MODEL_SUFFIX, _BANK_SUFFIX} or output.is_file():
            raise ConfigError(f"--chain true --output {output}: wanted the name of a folder.")
        return
    if output.suffix not in {_MODEL_SUFFIX, _BANK_SUFFIX} or output.is_dir():
        raise ConfigError(
            f"--output {output}: wanted a file name that ends in {_MODEL_SUFFIX} for the head or in"
            f" {_BANK_SUFFIX} for embeddings of names; or --chain true, which writes a folder."
        )
    unused = [f"--{name}" for name in _OF_NAMES if options[name] is not None]
    if output.suffix == _MODEL_SUFFIX and unused:
        raise ConfigError(
            f"{' and '.join(unused)}: the head alone holds neither names nor frozen models, as its"
            f" names are an input. Add --chain true, or give an --output that ends in"
            f" {_BANK_SUFFIX}."
        )


def _parser() -> ArgumentParser:
    prepare_parsing()
    parser = ArgumentParser(prog="regionspot export", description=export.__doc__)
    parser.add_argument("head", type=str, help=HEAD_HELP)
    parser.add_argument(
        "--output",
        type=str,
        default="head.onnx",
        help="The .onnx file to write the head to; with --chain a folder; or an .npz file for the"
        " embeddings of names alone.",
    )
    parser.add_argument(
        "--chain",
        type=bool,
        default=False,
        help="Whether to write all steps from pixels to names.",
    )
    parser.add_argument("--vocabulary", type=str, help=VOCABULARY_HELP)
    parser.add_argument("--templates", type=str, help=TEMPLATES_HELP)
    parser.add_argument(
        "--sam_weights", type=str, help="Weights file; by default the released one."
    )
    parser.add_argument("--clip_weights", type=str, help="Weights file; by default CLIP's own.")
    return parser
