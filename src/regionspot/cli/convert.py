"""``regionspot convert`` and ``convert-proposals``: files of other projects, and back."""

import json
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from regionspot.annotations.detectron2 import CONVERT, read_detections
from regionspot.cli.options import CommandParser, prepare_parsing
from regionspot.cli.run import reported_errors
from regionspot.core.errors import AnnotationError, ConfigError
from regionspot.core.files import open_atomic
from regionspot.core.shown import shown

if TYPE_CHECKING:
    from regionspot.backbones import ModelsConfig
    from regionspot.model import TrainedHead

_RELEASED_SUFFIX = ".pth"  # regionspot.model.RELEASED_SUFFIX: importing it takes seconds
_JSON_SUFFIX = ".json"


@reported_errors()
def convert_head(words: Sequence[str]) -> None:
    """Convert a head released with the paper (.pth) to a trained head of this library, or back.

    ``regionspot convert released.pth heads/bl --models.preset bl`` writes
    ``heads/bl/head.safetensors`` and its card; ``regionspot convert runs/bl_stage2 mine.pth``
    writes the released layout.
    """
    # Imported here and below, since torch alone takes seconds.
    from regionspot.backbones import ModelsConfig

    prepare_parsing()
    parser = CommandParser(prog="regionspot convert", description=convert_head.__doc__)
    parser.add_argument("source", type=str, help="A released .pth file, or a trained head.")
    parser.add_argument("target", type=str, help="The folder or the .pth file to write.")
    parser.add_argument(
        "--models",
        type=ModelsConfig | None,
        default=None,
        help="From .pth: the SAM and CLIP that the head was trained on. They are loaded once for"
        " their fingerprint, so that from_pretrained can find them again. Without this option the"
        " head works on caches only.",
    )
    parser.add_argument(
        "--templates",
        type=str,
        default="ensemble81",
        help="From .pth: the template set of its names.",
    )
    options = parser.instantiate(parser.parse_args(words))
    source, target = Path(options.source), Path(options.target)
    if (source.suffix == _RELEASED_SUFFIX) == (target.suffix == _RELEASED_SUFFIX):
        raise ConfigError(
            f"{source} to {target}: wanted a released {_RELEASED_SUFFIX} file on one side and a"
            " folder on the other."
        )
    from regionspot.model import load_trained_head, save_released_head, save_trained_head

    if target.suffix == _RELEASED_SUFFIX:
        save_released_head(target, load_trained_head(options.source))
    else:
        save_trained_head(target, _read_released(source, options.models, options.templates))
    print(f"wrote {target}")


def _read_released(source: Path, models: "ModelsConfig | None", templates: str) -> "TrainedHead":
    from regionspot.model import load_released_head

    released = load_released_head(source)
    fingerprint = {}
    if models is not None:
        from regionspot.backbones import load_frozen_models

        found = load_frozen_models(models).fingerprint()
        widths = (found.token_dim, found.feature_dim, found.text_dim)
        spec = released.head.spec
        if widths != (spec.token_dim, spec.feature_dim, spec.text_dim):
            raise ConfigError(
                f"{source} has the widths {spec.token_dim}, {spec.feature_dim}, {spec.text_dim}"
                f" (token, feature map, text), but --models gives {widths}. Give the preset that"
                " it was trained on (bb: 256, 768, 512; bl and bl336: 256, 1024, 768)."
            )
        fingerprint = found.to_dict()
    card = replace(
        released.card,
        fingerprint=fingerprint,
        templates=templates,
        library_version=version("regionspot"),
    )
    return replace(released, card=card)


@reported_errors()
def convert_proposals(words: Sequence[str]) -> None:
    """Convert boxes in Detectron2's formats to COCO results, for use as proposals.

    ``regionspot convert-proposals box_proposals.pkl proposals.json`` reads precomputed proposals.
    Objectness logits x are converted to scores by the logistic function, 1 / (1 + exp(-x)). The
    ``scores`` of older pickles are kept if all of them are in [0, 1]; otherwise they are treated as
    logits. The ``instances_predictions.pth`` of COCOEvaluator is also accepted. Files that would
    run code are refused.
    """
    parser = CommandParser(prog=CONVERT, description=convert_proposals.__doc__)
    parser.add_argument("source", type=str, help="A .pkl or .pth file of Detectron2.")
    parser.add_argument("target", type=str, help="The .json file to write.")
    options = parser.parse_args(words)
    source, target = Path(options.source), Path(options.target)
    if target.suffix != _JSON_SUFFIX:
        raise ConfigError(
            f"{target} does not end in {_JSON_SUFFIX}; wanted the name of a JSON file."
        )
    detections = read_detections(source)
    num_images, num_boxes = 0, 0
    with open_atomic(target) as file:
        file.write(b"[")
        for results in detections.images:
            num_images += 1
            for result in results:
                file.write(b",\n" if num_boxes else b"\n")
                file.write(_json(result, source).encode())
                num_boxes += 1
        file.write(b"\n]\n")
    print(
        f"wrote {target}: {num_boxes:,} boxes of {num_images:,} images; their scores were"
        f" {detections.scores_were}"
    )


def _json(result: dict[str, object], source: Path) -> str:
    try:
        return json.dumps(result, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise AnnotationError(
            f"{source}: {shown(result, 120)} cannot be written as a COCO result ({error}); wanted"
            " finite numbers."
        ) from error
