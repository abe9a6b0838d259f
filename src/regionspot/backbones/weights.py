"""Weights files: read without running code, and identified by their content.

SAM's released weights are checked against the hash in their names; SAM 2's come from the hub. The
tiny towers that come with the package are found here, too: their architectures and weights.
"""

import hashlib
import json
import logging
import os
import pickle
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from regionspot.core.errors import MissingFileError, WeightsError
from regionspot.core.files import sha256_bytes, sha256_file
from regionspot.core.state_dict import listed_keys
from regionspot.core.text import needs_extra
from regionspot.storage import local_home

_logger = logging.getLogger(__name__)

RANDOM = "random"
"""Asks for seeded random weights, which nobody gets without saying so."""
SHIPPED = "shipped"
"""Asks for the weights that come with the package; only the tiny towers have any."""

_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
_SEED = 0


def is_path(weights: str) -> bool:
    """Tell whether a weights option means a file rather than a name or tag."""
    return Path(weights).suffix in _SUFFIXES or os.sep in weights or "/" in weights


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a weights file onto the CPU; nothing in the file is executed.

    Understands safetensors and torch's own format, bare or as checkpoints wrap it: below
    ``state_dict`` or ``model``, every key with the prefix ``module.``.

    Args:
        path: A ``.safetensors``, ``.pth``, ``.pt`` or ``.bin`` file.

    Raises:
        MissingFileError: There is no such file.
        WeightsError: The file is damaged, or holds anything but tensors.
    """
    if not path.is_file():
        raise MissingFileError(f"no weights file at {path}: check the path, or give a name or tag.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise WeightsError(
            f"{path} cannot be read as weights ({_first_line(error)}). Wanted a state dict in"
            " safetensors' or torch's format without code: TorchScript archives (OpenAI's own .pt"
            " files) and whole pickled models are refused. Download it again, or convert it to"
            " safetensors where you trust it."
        ) from error
    return _unwrap(content, path)


def _unwrap(content: object, path: Path) -> dict[str, Tensor]:
    for wrapper in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path} holds {type(content).__name__}; wanted tensors by name.")
    strangers = [key for key, value in content.items() if not isinstance(value, Tensor)]
    if strangers:
        raise WeightsError(
            f"{path} holds more than tensors: {listed_keys(strangers)}. Wanted a bare state dict."
        )
    if all(key.startswith("module.") for key in content):
        return {key.removeprefix("module."): value for key, value in content.items()}
    return dict(content)


@contextmanager
def random_weights(what: str, *, option: str) -> Iterator[None]:
    """Build a model inside the block with random weights that are the same every time.

    The caller's random numbers are left as they were.

    Args:
        what: The model, for the warning.
        option: The option that asked for it, for the warning.
    """
    _logger.warning(
        "%s gets RANDOM weights, as %s=%s asks for: its results mean nothing.", what, option, RANDOM
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        yield


def state_sha256(module: nn.Module) -> str:
    """Return the identity of all parameters and buffers of a module, as 64 hex digits.

    Depends on names, dtypes, shapes and values, and not on the file format or the device. The
    tensors are hashed in parallel: hashlib lets other threads run, and a ViT-H has 2.5 GB.
    """
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    names = sorted(tensors)
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        digests = list(pool.map(lambda name: _tensor_sha256(tensors[name]), names))
    lines = [
        f"{name} {tensors[name].dtype} {list(tensors[name].shape)} {digest}"
        for name, digest in zip(names, digests, strict=True)
    ]
    return sha256_bytes("\n".join(lines).encode())


def freeze(module: nn.Module) -> None:
    """Put a module into eval mode and let nothing in it be trained."""
    module.eval()
    module.requires_grad_(requires_grad=False)


def _tensor_sha256(tensor: Tensor) -> str:
    values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha256(values.data).hexdigest()


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0] or type(error).__name__


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasedFile:
    """A weights file on a public server."""

    file_name: str
    """Name on the server and in the download folder."""
    url: str
    """Where it is downloaded from."""
    sha256_prefix: str
    """First hex digits of the SHA-256 of its bytes."""


def _released_sam(name: str) -> ReleasedFile:
    return ReleasedFile(
        file_name=f"{name}.pth",
        url=f"https://dl.fbaipublicfiles.com/segment_anything/{name}.pth",
        sha256_prefix=name.rsplit("_", 1)[1],
    )


SAM_RELEASES: dict[str, ReleasedFile] = {
    name: _released_sam(name)
    for name in ("sam_vit_b_01ec64", "sam_vit_l_0b3195", "sam_vit_h_4b8939")
}
"""The three files that Meta released, by name without suffix."""


def fetch(released: ReleasedFile, *, option: str) -> Path:
    """Return the path of a released file, downloading it if it is not there yet.

    The download goes to a temporary name and gets its own only if its hash is right. A file that is
    already there is checked too, as it may have been put there by hand.

    Args:
        released: The file.
        option: The option that would name the file's path instead, for the error message.

    Raises:
        WeightsError: There is no network, or the bytes are not the released ones.
    """
    path = local_home() / released.file_name
    if path.is_file():
        return _checked(path, released)
    path.parent.mkdir(parents=True, exist_ok=True)
    _logger.info("downloading %s to %s", released.url, path)
    try:
        torch.hub.download_url_to_file(released.url, str(path), released.sha256_prefix)
    except (URLError, OSError) as error:
        raise WeightsError(
            f"{released.file_name} is not at {path} and could not be downloaded from"
            f" {released.url} ({error}). Download it with a browser or on another machine and put"
            f" it at {path}, or anywhere and say where with {option}=/path/to/{released.file_name}."
        ) from error
    except RuntimeError as error:  # torch.hub's answer to a wrong hash
        raise WeightsError(
            f"{released.url} did not give the released bytes ({error}). Try again; if it stays so,"
            f" something between here and the server changes downloads: get {released.file_name}"
            f" another way and put it at {path}."
        ) from error
    return path


def fetch_from_hub(repository: str, file_name: str, *, option: str) -> Path:
    """Return the path of a file of a Hugging Face repository, downloading it if it is not there.

    Args:
        repository: Owner and name.
        file_name: The file in it.
        option: The option that would name the file's path instead, for the error message.

    Raises:
        WeightsError: It is not in the cache, and there is no network.
        MissingExtraError: ``huggingface_hub``, which comes with ``transformers``, is not installed.
    """
    with needs_extra("transformers"):
        from huggingface_hub import hf_hub_download
    try:
        return Path(hf_hub_download(repository, file_name))
    except OSError as error:  # the hub's errors and those of its HTTP client are all of this kind
        url = f"https://huggingface.co/{repository}/resolve/main/{file_name}"
        reason = str(error).partition("\n")[0]
        raise WeightsError(
            f"{file_name} of {repository} could not be had from the Hugging Face hub"
            f" ({reason}). Where there is no network, download {url} on another"
            f" machine and say where it is with {option}=/path/to/{file_name}."
        ) from error


def _checked(path: Path, released: ReleasedFile) -> Path:
    found = sha256_file(path)
    if not found.startswith(released.sha256_prefix):
        raise WeightsError(
            f"{path} has the SHA-256 {found}; wanted one that starts with"
            f" {released.sha256_prefix}. The file is cut short or not {released.file_name}: remove"
            f" it, and it will be downloaded from {released.url} again."
        )
    return path


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
