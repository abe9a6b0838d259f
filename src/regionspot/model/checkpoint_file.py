"""Checkpoints of a training on disk: written whole, sealed, and read without running code.

A checkpoint is the ZIP archive that `torch.save` writes, with its own SHA-256 as the archive's
comment (`regionspot.core.sealing`). Every checkpoint that this library reads comes through
`read_checkpoint`.
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
"""Under which a checkpoint holds the card of its head."""

CHECKPOINT_SUFFIX: Final = ".ckpt"

_GLOBAL = re.compile(r"GLOBAL (\S+)")
_logger = logging.getLogger(__name__)


def write_checkpoint(path: Path, checkpoint: Mapping[str, Any]) -> None:
    """Write a checkpoint with its checksum; a former one stays until this one is on disk."""
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    seal_zip(buffer)
    with open_atomic(path) as file:
        file.write(buffer.getbuffer())


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of ``train.py`` onto the CPU, without running any code from the file.

    A checkpoint without a checksum, as written by earlier versions, is read with a warning.

    Args:
        path: The ``.ckpt`` file.

    Raises:
        MissingFileError: There is no such file.
        WeightsError: It is damaged, was not written by ``train.py``, or holds weights that are not
            finite.
    """
    if not path.is_file():
        raise MissingFileError(f"there is no checkpoint {path}. {_advice(path)}")
    state = zip_state(path)
    if state == "damaged":
        raise WeightsError(
            f"{path} is no whole checkpoint: it was cut or changed after it was written, or is"
            f" another kind of file. {_advice(path)}"
        )
    if state == "unsealed":
        _logger.warning("%s carries no checksum: damage to it would go unnoticed", path)
    checkpoint = load_tensors(path, advice=lambda: _advice(path))
    if not isinstance(checkpoint, dict) or CHECKPOINT_CARD_KEY not in checkpoint:
        raise WeightsError(
            f"{path} was not written by RegionSpot's train.py: it holds no"
            f" {CHECKPOINT_CARD_KEY!r}. For one of the paper's released checkpoints use"
            " `regionspot convert` (load_released_head), or --model.init_from to train from it."
        )
    tensors = checkpoint.get("state_dict")
    if not isinstance(tensors, Mapping) or not isinstance(checkpoint[CHECKPOINT_CARD_KEY], str):
        raise WeightsError(
            f"{path} is no checkpoint of train.py: it holds no 'state_dict', or no card of a head."
            f" {_advice(path)}"
        )
    check_finite(tensors, where=str(path))
    return checkpoint


def load_tensors(path: Path, *, advice: Callable[[], str]) -> Any:
    """Read what `torch.save` wrote: tensors, numbers, text and containers of them, nothing else.

    Args:
        path: The file.
        advice: Called when it cannot be read: says what to do, as a sentence for the user.

    Raises:
        WeightsError: It is damaged, or holds other objects.
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
    """Refuse weights that are NaN or infinite.

    Args:
        tensors: Weights by name.
        where: Where they come from, for messages.

    Raises:
        WeightsError: A tensor holds a value that is not finite.
    """
    names = [
        name
        for name, tensor in tensors.items()
        if isinstance(tensor, Tensor) and not tensor.isfinite().all()
    ]
    if names:
        raise WeightsError(
            f"{where} holds NaN or infinite values in {len(names)} of {len(tensors)} tensors,"
            f" {names[0]} among them: a head with them names nothing. Take an earlier checkpoint,"
            " or train again."
        )


def whole_checkpoints(folder: Path) -> list[Path]:
    """Return the sealed checkpoints of a folder whose bytes are as written, the newest first."""
    found = [path for path in folder.glob(f"*{CHECKPOINT_SUFFIX}") if path.is_file()]
    found.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
    return [path for path in found if zip_state(path) == "whole"]


def _advice(path: Path) -> str:
    others = [str(other) for other in whole_checkpoints(path.parent) if other != path]
    if others:
        return f"Whole in this folder, newest first: {', '.join(others)}. Give one of these."
    return f"{path.parent} has no whole checkpoint: train again without --ckpt_path."
