"""Downloads one image file from an http or https URL, with limits on its size and the time."""

import http.client
import time
import urllib.error
import urllib.request
from typing import Final

from regionspot.core.errors import ConfigError, MissingFileError
from regionspot.core.text import human_bytes
from regionspot.storage import StorageError

MAX_BYTES: Final = 100_000_000
"""Size of the largest image file that is downloaded."""
TIMEOUT_S: Final = 30.0
"""Time after which a download is given up."""

_PIECE_BYTES = 1 << 16
_GONE = {404, 410}


def fetch_image(url: str, *, max_bytes: int = MAX_BYTES, timeout_s: float = TIMEOUT_S) -> bytes:
    """Return the bytes of a file behind a URL; redirects are followed.

    Args:
        url: An ``http://`` or ``https://`` URL.
        max_bytes: Size of the largest file that is accepted.
        timeout_s: Time for the whole download in seconds.

    Raises:
        ConfigError: The URL has another scheme.
        MissingFileError: The server has no such file.
        StorageError: The server refuses access or does not answer, or the file is too large.
    """
    if not url.lower().startswith(("http://", "https://")):
        raise ConfigError(
            f"the image is {url}; wanted a path, or a URL that starts with http:// or https://."
        )
    deadline = time.monotonic() + timeout_s
    request = urllib.request.Request(url, headers={"User-Agent": "regionspot"})  # noqa: S310
    try:
        with _opener().open(request, timeout=timeout_s) as response:
            return _read(response, url, max_bytes, deadline)
    except urllib.error.HTTPError as error:
        if error.code in _GONE:
            raise MissingFileError(f"no image at {url} (HTTP {error.code}): check it.") from error
        raise StorageError(
            f"{url}: the server answers HTTP {error.code} {error.reason}."
        ) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, StorageError):
            raise
        reason = getattr(error, "reason", error)
        raise StorageError(
            f"{url} cannot be downloaded ({reason}): check the address and the network."
        ) from error


def _opener() -> urllib.request.OpenerDirector:
    """Return an opener for http and https only, so that a redirect leads to nothing else."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


def _read(response: http.client.HTTPResponse, url: str, max_bytes: int, deadline: float) -> bytes:
    data = bytearray()
    while piece := response.read1(_PIECE_BYTES):
        data += piece
        if len(data) > max_bytes:
            raise StorageError(
                f"{url} is larger than {human_bytes(max_bytes)}: download it yourself, and give"
                " its path."
            )
        if time.monotonic() > deadline:
            raise StorageError(f"{url}: the download takes too long: download it yourself.")
    if response.length:
        raise StorageError(f"{url}: {response.length} bytes are missing: try again.")
    return bytes(data)
