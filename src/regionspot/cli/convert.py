"""Convert heads from and to the released layout, and proposals from Detectron2's."""

import json
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser

from regionspot.annotations.detectron2 import CONVERT, read_detections
from regionspot.cli.options import prepare_parsing
from regionspot.cli.run import run_cli
from regionspot.core.errors import AnnotationError, ConfigError
from regionspot.core.files import open_atomic
from regionspot.core.shown import shown

if TYPE_CHECKING:
    from regionspot.backbones import ModelsConfig
    from regionspot.model import TrainedHead

_RELEASED_SUFFIX = ".pth"  # regionspot.model.RELEASED_SUFFIX: importing it takes seconds
_JSON_SUFFIX = ".json"


def convert_head(words: Sequence[str]) -> None:
    """Convert a head released with the paper (.pth) to a trained head of this library, or back.

    ``regionspot convert released.pth heads/bl --models.preset bl`` writes
    ``heads/bl/head.safetensors`` and its card; ``regionspot convert runs/bl_stage2 mine.pth``
    writes the released layout.
    """
    # Here and below, since torch alone takes seconds to import.
    from regionspot.backbones import ModelsConfig

    prepare_parsing()
    parser = ArgumentParser(prog="regionspot convert", description=convert_head.__doc__)
    parser.add_argument("source", type=str, help="A released .pth file, or a trained head.")
    parser.add_argument("target", type=str, help="The folder or the .pth file to write.")
    parser.add_argument(
        "--models",
        type=ModelsConfig | None,
        default=None,
        help="From .pth: the SAM and CLIP that the head was trained on, so that from_pretrained can"
        " load them. They are loaded once, for their fingerprint; without them the head works on"
        " caches only.",
    )
    parser.add_argument(
        "--templates", type=str, default="ensemble81", help="From .pth: its text templates."
    )
    options = parser.instantiate(parser.parse_args(words))
    source, target = Path(options.source), Path(options.target)
    run_cli(lambda: _convert_head(source, target, options.models, options.templates))


def _convert_head(
    source: Path, target: Path, models: "ModelsConfig | None", templates: str
) -> None:
    if (source.suffix == _RELEASED_SUFFIX) == (target.suffix == _RELEASED_SUFFIX):
        raise ConfigError(
            f"{source} to {target}: wanted a released {_RELEASED_SUFFIX} file on one side and a"
            " folder on the other."
        )
    from regionspot.model import load_trained_head, save_released_head, save_trained_head

    if target.suffix == _RELEASED_SUFFIX:
        save_released_head(target, load_trained_head(source))
    else:
        save_trained_head(target, _read_released(source, models, templates))
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
                f" (token, feature map, text), but --models give {widths}: choose the preset that"
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


def convert_proposals(words: Sequence[str]) -> None:
    """Convert Detectron2's files of boxes to COCO results, which can be used as proposals.

    ``regionspot convert-proposals box_proposals.pkl proposals.json`` takes precomputed proposals;
    objectness logits x become scores by the logistic function, 1 / (1 + exp(-x)). ``scores`` of
    older pickles are kept if all of them are from 0 to 1, else they are taken as logits. The
    ``instances_predictions.pth`` that a COCOEvaluator writes is also accepted. A file that would
    run code is refused.
    """
    parser = ArgumentParser(prog=CONVERT, description=convert_proposals.__doc__)
    parser.add_argument("source", type=str, help="A .pkl or .pth file of Detectron2.")
    parser.add_argument("target", type=str, help="The .json file to write.")
    options = parser.parse_args(words)
    run_cli(lambda: _convert_proposals(Path(options.source), Path(options.target)))


def _convert_proposals(source: Path, target: Path) -> None:
    if target.suffix != _JSON_SUFFIX:
        raise ConfigError(f"{target} does not end in {_JSON_SUFFIX}; wanted a JSON file to write.")
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
