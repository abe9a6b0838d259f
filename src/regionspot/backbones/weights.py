"""Weights files: downloaded, read without running code, and identified by their content."""

import hashlib
import json
import logging
import os
import pickle
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import URLError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from regionspot.core.errors import MissingFileError, WeightsError
from regionspot.core.files import sha256_bytes, sha256_file
from regionspot.core.state_dict import listed_keys, load_strictly
from regionspot.core.text import needs_extra
from regionspot.storage import local_home

_logger = logging.getLogger(__name__)
_Model = TypeVar("_Model", bound=nn.Module)

RANDOM = "random"
"""The option value for seeded random weights."""
SHIPPED = "shipped"
"""The option value for the weights that come with the package, for the tiny towers only."""

_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
_SEED = 0


def is_path(weights: str) -> bool:
    """Return whether a weights option is a path rather than a name or tag."""
    return Path(weights).suffix in _SUFFIXES or os.sep in weights or "/" in weights


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a weights file onto the CPU, without running code from it.

    Reads safetensors and torch's own format, also as checkpoints wrap it: below ``state_dict`` or
    ``model``, every key with the prefix ``module.``.

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
    others = [key for key, value in content.items() if not isinstance(value, Tensor)]
    if others:
        raise WeightsError(
            f"{path} holds more than tensors: {listed_keys(others)}. Wanted a bare state dict."
        )
    if all(key.startswith("module.") for key in content):
        return {key.removeprefix("module."): value for key, value in content.items()}
    return dict(content)


def build_frozen(
    build: Callable[[], _Model],
    path: Path | None,
    *,
    what: str,
    option: str,
    adapt: Callable[[dict[str, Tensor], Path], dict[str, Tensor]] = lambda state, _path: state,
) -> _Model:
    """Build a model, frozen, with the weights of a file or with seeded random ones.

    Args:
        build: Returns the model with fresh weights.
        path: The weights file; None for random weights, with a warning. They are the same every
            time, and the caller's random number generator is left unchanged.
        what: The model's name in the warning.
        option: The option for weights in the warning.
        adapt: Turns the file's state dict into the model's.
    """
    if path is None:
        _logger.warning(
            "%s has RANDOM weights, because of %s=%s: its results mean nothing.",
            what,
            option,
            RANDOM,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            model = build()
    else:
        state = adapt(read_state_dict(path), path)
        model = build()
        load_strictly(model, state, source=str(path))
    freeze(model)
    return model


def state_sha256(module: nn.Module) -> str:
    """Return the SHA-256 of all parameters and buffers of a module, as 64 hex digits.

    Depends on names, dtypes, shapes and values, but not on the file format or the device. Tensors
    are hashed in parallel: a ViT-H has 2.5 GB, and hashlib releases the GIL.
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
    """Put a module into eval mode without gradients."""
    module.eval().requires_grad_(requires_grad=False)


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


SAM_RELEASES: dict[str, ReleasedFile] = {
    name: ReleasedFile(
        file_name=f"{name}.pth",
        url=f"https://dl.fbaipublicfiles.com/segment_anything/{name}.pth",
        sha256_prefix=name.rsplit("_", 1)[1],
    )
    for name in ("sam_vit_b_01ec64", "sam_vit_l_0b3195", "sam_vit_h_4b8939")
}
"""The three files that Meta released, by name without suffix."""


def fetch(released: ReleasedFile, *, option: str) -> Path:
    """Return the path of a released file, downloading it if it is missing.

    The download is renamed only if its hash is right. An existing file is checked too, as it may
    have been put there by hand.

    Args:
        released: The file.
        option: The option that accepts a path in place of the name, for the error message.

    Raises:
        WeightsError: The download fails, or the bytes are not the released ones.
    """
    path = local_home() / released.file_name
    if path.is_file():
        found = sha256_file(path)
        if not found.startswith(released.sha256_prefix):
            raise WeightsError(
                f"{path} has the SHA-256 {found}; wanted one that starts with"
                f" {released.sha256_prefix}. The file is truncated or not {released.file_name}:"
                f" remove it, and it will be downloaded from {released.url} again."
            )
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    _logger.info("downloading %s to %s", released.url, path)
    try:
        torch.hub.download_url_to_file(released.url, str(path), released.sha256_prefix)
    except (URLError, OSError) as error:
        raise WeightsError(
            f"{released.file_name} is not at {path} and could not be downloaded from"
            f" {released.url} ({error}). Download it with a browser or on another machine and put"
            f" it at {path}, or give its path: {as_typed(option, released.file_name)}."
        ) from error
    except RuntimeError as error:  # torch.hub's answer to a wrong hash
        raise WeightsError(
            f"{released.url} did not give the released bytes ({error}). Try again; if that does not"
            f" help, a proxy may change downloads: get {released.file_name} another way and put it"
            f" at {path}."
        ) from error
    return path


def as_typed(option: str, file_name: str) -> str:
    """Return how a file is given by an option of ``models``, as it is typed in a shell."""
    short = option.removeprefix("models.")
    return f"--{option} /path/to/{file_name} (recognize and export: --{short})"


def fetch_from_hub(repository: str, file_name: str, *, option: str) -> Path:
    """Return the path of a file of a Hugging Face repository, downloading it if it is missing.

    Arguments and errors are those of `fetch`.
    """
    with needs_extra("transformers"):
        from huggingface_hub import hf_hub_download
    try:
        return Path(hf_hub_download(repository, file_name))
    except OSError as error:  # base class of the errors of the hub and of its HTTP client
        url = f"https://huggingface.co/{repository}/resolve/main/{file_name}"
        reason = str(error).partition("\n")[0]
        raise WeightsError(
            f"{file_name} of {repository} could not be downloaded from the Hugging Face hub"
            f" ({reason}). Without network access, download {url} on another machine and give its"
            f" path: {as_typed(option, file_name)}."
        ) from error


def shipped_config(tower: str) -> dict[str, Any]:
    """Read the architecture of a tower, "sam" or "clip", that comes with the package."""
    config: dict[str, Any] = json.loads(_shipped(f"{tower}.json").read_text(encoding="utf-8"))
    return config


def shipped_weights_path(tower: str) -> Path:
    """Return the path of the weights of a tower, "sam" or "clip", that comes with the package."""
    return _shipped(f"{tower}.safetensors")


def _shipped(file_name: str) -> Path:
    # Wheels and editable installs are both folders, so the path outlives the context.
    with as_file(files("regionspot.backbones") / "tiny" / file_name) as path:
        if not path.is_file():
            raise MissingFileError(
                f"{path} is missing, though it is part of the package: install regionspot again."
            )
        return path
