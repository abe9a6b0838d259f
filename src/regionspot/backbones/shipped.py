"""The tiny towers that come with the package: their architectures and where their weights lie."""

import json
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from regionspot.core.errors import MissingFileError


def shipped_config(tower: str) -> dict[str, Any]:
    """Read ``tiny/<tower>.json``, the architecture of a shipped tower.

    Args:
        tower: "sam" or "clip".
    """
    config: dict[str, Any] = json.loads(_read_path(f"{tower}.json").read_text(encoding="utf-8"))
    return config


def shipped_weights_path(tower: str) -> Path:
    """Return the path of ``tiny/<tower>.safetensors``.

    Args:
        tower: "sam" or "clip".
    """
    return _read_path(f"{tower}.safetensors")


def _read_path(file_name: str) -> Path:
    # Wheels and editable installs are both folders, so the path outlives the context.
    with as_file(files("regionspot.backbones") / "tiny" / file_name) as path:
        if not path.is_file():
            raise MissingFileError(
                f"{path} is missing, though it is part of the package: install regionspot again."
            )
        return path
