"""Writes a head, or all steps from pixels to names, as ONNX files for other runtimes.

A folder with all steps has one file per step, ``text_bank.npz`` with the names to choose from, and
``export.json``, which is written last: a folder without it is incomplete. ``docs/export.md``
describes the files, and ``examples/onnx_runner.py`` runs them.
"""

import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import torch

from regionspot.backbones import FrozenModels
from regionspot.core.errors import WeightsError
from regionspot.core.files import sha256_file, write_bytes_atomic, write_text_atomic
from regionspot.core.text import needs_extra
from regionspot.inference.matching_models import exif_policy_of
from regionspot.inference.programs import (
    Program,
    chain_programs,
    exportable_models,
    head_program,
)
from regionspot.inference.text_banks import ChosenNames
from regionspot.model import TrainedHead

if TYPE_CHECKING:
    from torch.onnx import ONNXProgram

MANIFEST_NAME: Final = "export.json"
TEXT_BANK_NAME: Final = "text_bank.npz"
MODEL_SUFFIX: Final = ".onnx"

_FORMAT_VERSION = 1
_DATA_SUFFIX = ".data"
_MAX_BYTES_IN_ONE_FILE = 1_900_000_000
"""Weights beyond this go to a second file: protobuf ends at 2 GiB."""
_SAME_AXIS = "# The axis name: .* will not be used, since it shares the same shape"


def export_head(path: Path, trained_head: TrainedHead) -> None:
    """Write a head and its classifier as one ONNX file; see `head_program` for its inputs.

    Args:
        path: The ``.onnx`` file; an existing one is replaced.
        trained_head: The head, on the CPU.

    Raises:
        WeightsError: The card does not say how many tokens a feature map has.
        MissingExtraError: The extra ``onnx`` is not installed.
    """
    num_tokens = trained_head.card.fingerprint.get("num_feature_tokens")
    if not isinstance(num_tokens, int):
        raise WeightsError(
            "the head's card does not say which CLIP it was trained on, so the number of its"
            " feature tokens is unknown. For a head released with the paper, convert it with"
            " --models.preset: regionspot convert released.pth heads/bl --models.preset bl."
        )
    _write(path, to_onnx(head_program(trained_head, num_tokens)))


def export_chain(
    folder: Path, trained_head: TrainedHead, models: FrozenModels, names: ChosenNames
) -> None:
    """Write all steps from pixels to names into a folder, each as an ONNX file.

    Args:
        folder: The folder; created if missing. Files of an earlier export are replaced.
        trained_head: The head, on the CPU.
        models: The frozen models that it was trained on, on the CPU in float32.
        names: The names of the text bank.

    Raises:
        ConfigError: The frozen models are of a kind that cannot be exported.
        MissingExtraError: The extra ``onnx`` is not installed.
    """
    programs = chain_programs(trained_head, models)
    (folder / MANIFEST_NAME).unlink(missing_ok=True)
    files = []
    for program in programs:
        path = folder / f"{program.name}{MODEL_SUFFIX}"
        files += _write(path, to_onnx(program))
    save_text_bank(folder / TEXT_BANK_NAME, names)
    files.append(folder / TEXT_BANK_NAME)
    manifest = preprocessing(trained_head, models) | {
        "format_version": _FORMAT_VERSION,
        "library_version": version("regionspot"),
        "templates": names.templates,
        "files": {
            path.name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)} for path in files
        },
    }
    write_text_atomic(folder / MANIFEST_NAME, json.dumps(manifest, indent=1, sort_keys=True) + "\n")


def save_text_bank(path: Path, names: ChosenNames) -> None:
    """Write names and their embeddings as a ``.npz`` file that numpy reads without pickle.

    Its arrays are ``names`` (C,), ``embeddings`` (C, E) float32 of unit norm, and ``clip_sha256``,
    the identity of the CLIP that embedded them.
    """
    buffer = io.BytesIO()
    np.savez(
        buffer,
        names=np.array(names.vocabulary.names, np.str_),
        embeddings=names.bank_CE.cpu().numpy(),
        clip_sha256=np.array(names.stored.clip_sha256),
    )
    write_bytes_atomic(path, buffer.getvalue())


def to_onnx(program: Program) -> "ONNXProgram":
    """Return a step as an ONNX program in memory.

    Raises:
        MissingExtraError: The extra ``onnx`` is not installed.
    """
    with needs_extra("onnx"):
        import onnxscript  # noqa: F401 - torch.onnx needs it
    with torch.no_grad(), _quiet():
        converted = cast(
            "ONNXProgram",
            torch.onnx.export(
                program.module,
                tuple(program.inputs.values()),
                dynamo=True,
                dynamic_shapes=program.dynamic_shapes,
                input_names=list(program.inputs),
                output_names=list(program.outputs),
                verbose=False,
            ),
        )
    for node in converted.model.graph:
        node.metadata_props.clear()  # lines of code, with their paths on this machine
    converted.model.metadata_props.update(program.metadata)
    return converted


def preprocessing(trained_head: TrainedHead, models: FrozenModels) -> dict[str, Any]:
    """Return what a runner needs to turn images into pixels; levels count from 0 to 255.

    Raises:
        ConfigError: The frozen models are of a kind that cannot be exported.
    """
    localizer, encoder = exportable_models(models)
    sam, clip = localizer.sam, encoder.info
    return {
        "exif_policy": exif_policy_of(trained_head.card),
        "sam": {
            "side_px": localizer.image_size,
            "mean": sam.pixel_mean.flatten().tolist(),
            "std": sam.pixel_std.flatten().tolist(),
        },
        "clip": {
            "side_px": clip.image_size,
            "mean": [255 * value for value in clip.mean],
            "std": [255 * value for value in clip.std],
            "sha256": models.fingerprint().text_encoder_sha256,
        },
    }


def _write(path: Path, converted: "ONNXProgram") -> list[Path]:
    """Write an ONNX program; return its file, and the second one if its weights are large."""
    weights = converted.model.graph.initializers.values()
    num_bytes = sum(value.const_value.nbytes for value in weights if value.const_value is not None)
    if num_bytes <= _MAX_BYTES_IN_ONE_FILE:
        write_bytes_atomic(path, converted.model_proto.SerializeToString())
        return [path]
    path.parent.mkdir(parents=True, exist_ok=True)
    converted.save(path, external_data=True)
    return [path, path.with_name(path.name + _DATA_SUFFIX)]


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide what torch.onnx says about steps that it could not simplify, and about equal axes."""
    logger = logging.getLogger("onnxscript")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=_SAME_AXIS, category=UserWarning)
            yield
    finally:
        logger.setLevel(level)
