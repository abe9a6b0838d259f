"""Released weights: SAM's, checked against the hash in their names, and SAM 2's from the hub."""

import logging
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import torch

from regionspot.core.errors import WeightsError
from regionspot.core.extras import needs_extra
from regionspot.core.hashing import sha256_file
from regionspot.storage import local_home

_logger = logging.getLogger(__name__)


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
