"""A folder behind a URL: lists, reads, downloads, uploads and removes its files.

Failed requests are retried for 60 s, unless the server refused access. A missing file raises
`FileNotFoundError`, as only the caller knows what that means.
"""

import errno
import logging
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote

from typing_extensions import override

from regionspot.core.errors import ConfigError, MissingExtraError, RegionSpotError
from regionspot.core.files import open_atomic
from regionspot.core.stopping import sleep
from regionspot.core.text import needs_extra


class StorageError(RegionSpotError, OSError):
    """A server cannot be reached or refuses access, or the disk is too full for a copy."""


RETRY_VARIABLE: Final = "REGIONSPOT_RETRY_SECONDS"
"""How long failed requests are retried."""

_DEFAULT_SECONDS = 60.0
_FIRST_DELAY, _LONGEST_DELAY = 0.25, 10.0
_REFUSALS = {errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOSYS}
_OF_THIS_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
# By name, as their packages may not be installed.
_REFUSED_BY_CLIENT = {
    *("NoCredentialsError", "PartialCredentialsError", "ParamValidationError", "InvalidURL"),
    *("ProfileNotFound", "TokenRetrievalError", "UnauthorizedSSOTokenError", "NoRegionError"),
}
_CLIENTS = {"botocore", "aiobotocore", "aiohttp", "fsspec", "gcsfs", "google", "azure", "asyncio"}
_TRY_AGAIN_STATUS = {408, 425, 429}

_logger = logging.getLogger(__name__)
T = TypeVar("T")


def attempt(url: str, action: Callable[[], T]) -> T:
    """Run a request, and retry it while the server does not answer.

    Args:
        url: URL of the file or folder, for messages.
        action: The request; it may run more than once.

    Raises:
        FileNotFoundError: The file does not exist.
        StorageError: The server refused access, or did not answer for
            ``$REGIONSPOT_RETRY_SECONDS``.
    """
    deadline = time.monotonic() + _retry_seconds()
    delay = _FIRST_DELAY
    while True:
        try:
            return action()
        except FileNotFoundError:
            raise
        except Exception as error:
            if not _is_of_a_server(error):
                raise
            if _is_refusal(error):
                raise StorageError(
                    f"{url}: access was refused ({_reason(error)}). Check the URL and the"
                    " credentials in the environment (for s3 AWS_ACCESS_KEY_ID,"
                    " AWS_SECRET_ACCESS_KEY or AWS_PROFILE, AWS_ENDPOINT_URL). If listing is not"
                    " allowed, missing files are refused like this, too."
                ) from error
            if time.monotonic() + delay > deadline:
                raise StorageError(
                    f"{url}: the server does not answer ({_reason(error)}), tried for"
                    f" {_retry_seconds():g} s (${RETRY_VARIABLE}). Nothing is lost: run the same"
                    " command again when it does."
                ) from error
            _logger.warning("%s: %s; trying again in %.3g s", url, _reason(error), delay)
            sleep(delay)
            delay = min(2 * delay, _LONGEST_DELAY)


def _retry_seconds() -> float:
    text = os.environ.get(RETRY_VARIABLE, str(_DEFAULT_SECONDS))
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"${RETRY_VARIABLE} is {text!r}; wanted seconds, such as 60.") from None


def _is_of_a_server(error: Exception) -> bool:
    """Return whether an error comes from the server, not from a bug or this machine's disk."""
    if isinstance(error, OSError):
        return not isinstance(error, StorageError) and error.errno not in _OF_THIS_DISK
    return type(error).__module__.partition(".")[0] in _CLIENTS


def _is_refusal(error: Exception) -> bool:
    if isinstance(error, PermissionError) or type(error).__name__ in _REFUSED_BY_CLIENT:
        return True
    status = getattr(error, "status", None)  # of HTTP
    if isinstance(status, int):
        return 400 <= status < 500 and status not in _TRY_AGAIN_STATUS
    return isinstance(error, OSError) and error.errno in _REFUSALS


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip() or 'no more is known'}"


_APPEARS_WHOLE = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss", "memory"}
"""Stores where a file never appears incomplete; elsewhere it is renamed when complete."""

_HTTP = {"http", "https"}
_IDENTITY = ("ETag", "etag", "md5Hash", "Content-MD5", "Last-Modified", "mtime", "LastModified")
_NUM_AT_ONCE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteObject:
    """A file in a remote folder, as the server describes it."""

    num_bytes: int
    """Size of the file; -1 if unknown."""
    identity: str
    """Changes with every version of the file: size and ETag, or time of modification."""


class RemoteFolder:
    """A folder behind a URL. It can be pickled and used from several threads.

    Names of files are relative to the folder. Requests are made by `attempt`, and raise its errors.

    Args:
        url: Any URL that fsspec supports, such as ``s3://bucket/folder``.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    @override
    def __str__(self) -> str:
        return self.url

    @override
    def __reduce__(self) -> tuple[type["RemoteFolder"], tuple[str]]:
        return type(self), (self.url,)

    @property
    def protocol(self) -> str:
        """Scheme of the URL, the part before ``://``."""
        return self.url.partition("://")[0].lower()

    @property
    def can_list(self) -> bool:
        """Whether the server can list files; HTTP cannot."""
        return self.protocol not in _HTTP

    def url_of(self, name: str) -> str:
        """Return the URL of a file."""
        return f"{self.url}/{name}"

    def listing(self) -> dict[str, RemoteObject]:
        """Return all files in the folder and its subfolders; {} if the folder does not exist.

        Raises:
            StorageError: The bucket does not exist; or see `attempt`.
        """
        root = self._path("").rstrip("/")
        self._check_bucket()
        found: Mapping[str, Any]
        try:
            found = attempt(self.url, lambda: self._files.find(root, detail=True))
        except FileNotFoundError:
            return {}
        return {
            path.removeprefix(root).lstrip("/"): _described(info)
            for path, info in found.items()
            if info.get("type") == "file"
        }

    def find(self, name: str) -> RemoteObject | None:
        """Describe a file; None if it does not exist."""
        try:
            info = attempt(self.url_of(name), lambda: self._files.info(self._path(name)))
        except FileNotFoundError:
            return None
        return _described(info) if info.get("type") == "file" else None

    def find_all(self, names: list[str]) -> dict[str, RemoteObject]:
        """Describe those of some files that exist, if the folder cannot be listed."""
        with ThreadPoolExecutor(_NUM_AT_ONCE) as pool:
            found = list(pool.map(self.find, names))
        return {name: one for name, one in zip(names, found, strict=True) if one is not None}

    def read(self, name: str) -> bytes:
        """Return the bytes of a file.

        Raises:
            FileNotFoundError: The file does not exist, but its bucket does.
            StorageError: The bucket does not exist; or see `attempt`.
        """
        content: bytes
        try:
            content = attempt(self.url_of(name), lambda: self._files.cat_file(self._path(name)))
        except FileNotFoundError:
            self._check_bucket()
            raise
        return content

    def fetch(self, name: str, path: Path) -> None:
        """Download a file; it appears at ``path`` only when complete."""
        with open_atomic(path) as file:
            temporary = str(file.name)
            attempt(self.url_of(name), lambda: self._files.get_file(self._path(name), temporary))

    def put(self, path: Path, name: str) -> RemoteObject:
        """Upload a file; it appears only when complete, and its size is checked afterwards."""
        target = self._path(name)

        def upload() -> None:
            if self.protocol in _APPEARS_WHOLE:
                self._files.put_file(os.fspath(path), target)
                return
            self._files.makedirs(target.rpartition("/")[0], exist_ok=True)
            self._files.put_file(os.fspath(path), f"{target}.tmp")
            self._files.mv(f"{target}.tmp", target)

        try:
            attempt(self.url_of(name), upload)
        except FileNotFoundError as error:
            raise self._no_bucket() from error
        found, wanted = self.find(name), path.stat().st_size
        if found is None or found.num_bytes != wanted:
            size = "nothing" if found is None else f"{found.num_bytes} bytes"
            raise StorageError(
                f"{self.url_of(name)} holds {size} after {wanted} bytes were sent: another process"
                " writes there, or the server stores nothing. Run the same command again."
            )
        return found

    def remove(self, name: str) -> None:
        """Remove a file, if it exists."""
        with suppress(FileNotFoundError):
            attempt(self.url_of(name), lambda: self._files.rm_file(self._path(name)))

    @cached_property
    def _files(self) -> Any:
        with needs_extra("remote"):
            from fsspec.core import url_to_fs
        try:
            # Other processes write there, too, so listings must not be cached.
            options = {} if self.protocol in _HTTP else {"use_listings_cache": False}
            return url_to_fs(self.url, **options)[0]
        except ImportError as error:
            raise MissingExtraError(
                f"{self.url}: {self.protocol}:// needs a package that is not installed ({error})."
                ' s3 and http come with the extra: pip install "regionspot[remote]"; for gs'
                " pip install gcsfs."
            ) from error
        except ValueError as error:
            raise ConfigError(
                f"{self.url}: {self.protocol}:// is not a scheme that fsspec supports ({error})."
                " Give s3://bucket/folder, gs://bucket/folder, https://host/folder or a folder of"
                " this machine."
            ) from error

    def _path(self, name: str) -> str:
        if self.protocol in _HTTP:
            return f"{self.url}/{quote(name)}"
        root: str = self._files._strip_protocol(self.url)  # noqa: SLF001 - fsspec's own way
        return f"{root}/{name}"

    def _check_bucket(self) -> None:
        """Raise `StorageError` if the bucket is missing; other stores create folders on writing."""
        if self.protocol not in {"s3", "s3a", "gs", "gcs"}:
            return
        bucket = self._path("").partition("/")[0]
        try:
            attempt(self.url, lambda: self._files.info(bucket))
        except FileNotFoundError as error:
            raise self._no_bucket() from error

    def _no_bucket(self) -> StorageError:
        return StorageError(
            f"{self.url}: there is no such bucket or folder. Make it first, or check the URL (and"
            " AWS_ENDPOINT_URL, if the server is not Amazon's)."
        )


def _described(info: Mapping[str, Any]) -> RemoteObject:
    size = info.get("size")
    version = next((str(info[key]) for key in _IDENTITY if info.get(key) is not None), "")
    num_bytes = -1 if size is None else int(size)
    return RemoteObject(num_bytes=num_bytes, identity=f"{num_bytes} {version.strip(chr(34))}")
