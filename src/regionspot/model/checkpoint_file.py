"""Training checkpoints on disk: written atomically with a checksum, read without running code.

A checkpoint is a ZIP archive of `torch.save` with its own SHA-256 as the archive's comment
(`regionspot.core.sealing`).
"""

import io
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from regionspot.core.errors import MissingFileError, WeightsError
from regionspot.core.files import open_atomic
from regionspot.core.sealing import seal_zip, zip_state

CHECKPOINT_CARD_KEY: Final = "regionspot_head_card"
"""Key of the head's card in a checkpoint."""

CHECKPOINT_SUFFIX: Final = ".ckpt"

_GLOBAL = re.compile(r"GLOBAL (\S+)")
_logger = logging.getLogger(__name__)


def write_checkpoint(path: Path, checkpoint: Mapping[str, Any]) -> None:
    """Write a checkpoint with its checksum; an existing file is replaced once it is on disk."""
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    seal_zip(buffer)
    with open_atomic(path) as file:
        file.write(buffer.getbuffer())


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint of ``train.py`` on the CPU, without running code from the file.

    A checkpoint without a checksum, written by an earlier version, is loaded with a warning.

    Args:
        path: The ``.ckpt`` file.

    Raises:
        MissingFileError: There is no such file.
        WeightsError: It is damaged, was not written by ``train.py``, or a weight is not finite.
    """
    if not path.is_file():
        raise MissingFileError(f"there is no checkpoint {path}. {_advice(path)}")
    state = zip_state(path)
    if state == "damaged":
        raise WeightsError(
            f"{path} is not a whole checkpoint: it was truncated or modified after it was written,"
            f" or is another kind of file. {_advice(path)}"
        )
    if state == "unsealed":
        _logger.warning("%s has no checksum, so damage cannot be detected", path)
    checkpoint = load_tensors(path, advice=lambda: _advice(path))
    found = checkpoint if isinstance(checkpoint, dict) else {}
    tensors = found.get("state_dict")
    if not isinstance(found.get(CHECKPOINT_CARD_KEY), str) or not isinstance(tensors, Mapping):
        raise WeightsError(
            f"{path} was not written by RegionSpot's train.py: it has no {CHECKPOINT_CARD_KEY!r} or"
            " no 'state_dict'. For one of the paper's released checkpoints use `regionspot convert`"
            " (load_released_head), or --model.init_from to train from it."
        )
    check_finite(tensors, where=str(path))
    return found


def load_tensors(path: Path, *, advice: Callable[[], str]) -> Any:
    """Load a file of `torch.save` that contains only tensors, numbers, text and containers.

    Args:
        path: The file.
        advice: Returns a sentence for the user who has a file that cannot be read.

    Raises:
        WeightsError: It is damaged, or contains other objects.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes the unpickler raise anything
        named = _GLOBAL.search(str(error))
        found = f"it names {named[1]}" if named else f"{type(error).__name__} while reading it"
        raise WeightsError(
            f"{path} cannot be read as a checkpoint of plain tensors: {found}. {advice()}"
        ) from error


def check_finite(tensors: Mapping[str, object], *, where: str) -> None:
    """Raise `WeightsError` if a tensor of the file ``where`` has NaN or infinite values."""
    names = [
        name
        for name, tensor in tensors.items()
        if isinstance(tensor, Tensor) and not tensor.isfinite().all()
    ]
    if names:
        raise WeightsError(
            f"{where} has NaN or infinite values in {len(names)} of {len(tensors)} tensors, for"
            f" example {names[0]}, so the head cannot name anything. Use an earlier checkpoint, or"
            " train again."
        )


def whole_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder whose checksum is right, newest first."""
    found = [path for path in folder.glob(f"*{CHECKPOINT_SUFFIX}") if path.is_file()]
    found.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
    return [path for path in found if zip_state(path) == "whole"]


def _advice(path: Path) -> str:
    others = [str(other) for other in whole_checkpoints(path.parent) if other != path]
    if others:
        return f"Whole in this folder, newest first: {', '.join(others)}. Use one of these."
    return f"{path.parent} has no whole checkpoint: train again without --ckpt_path."
