"""Turn Detectron2's files of boxes into COCO results, which go in as proposals.

``regionspot convert-proposals box_proposals.pkl proposals.json`` takes precomputed proposals;
objectness logits x become scores by the logistic function, 1 / (1 + exp(-x)). Older pickles with
``scores`` instead are taken as they are if all of these are from 0 to 1, else as logits.
``instances_predictions.pth``, which a COCOEvaluator writes, goes in as well. A file that asks for
code to be run is refused.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from regionspot.annotations.detectron2 import CONVERT, read_detections
from regionspot.cli.run import run_cli
from regionspot.core.errors import AnnotationError, ConfigError
from regionspot.core.files import open_atomic
from regionspot.core.shown import shown

_SUFFIX = ".json"


def main(args: Sequence[str] | None = None) -> None:
    """Convert a file; see ``regionspot convert-proposals --help``."""
    parser = ArgumentParser(prog=CONVERT, description=__doc__)
    parser.add_argument("source", type=str, help="A .pkl or .pth file of Detectron2.")
    parser.add_argument("target", type=str, help="The .json file to write.")
    options = parser.parse_args(args)
    run_cli(lambda: _convert(Path(options.source), Path(options.target)))


def _convert(source: Path, target: Path) -> None:
    if target.suffix != _SUFFIX:
        raise ConfigError(f"{target} does not end in {_SUFFIX}; wanted a JSON file to write.")
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
