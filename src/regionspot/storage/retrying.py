"""Tells refusals and outages of a server apart: the first are final, the second are sat out.

A file that is missing stays a `FileNotFoundError`: only the caller knows what that means.
"""

import errno
import logging
import os
import time
from collections.abc import Callable
from typing import Final, TypeVar

from regionspot.core.errors import ConfigError
from regionspot.core.stopping import sleep
from regionspot.storage.errors import StorageError

RETRY_VARIABLE: Final = "REGIONSPOT_RETRY_SECONDS"
"""How long a server that does not answer is tried again."""

_DEFAULT_SECONDS = 60.0
_FIRST_DELAY, _LONGEST_DELAY = 0.25, 10.0
_REFUSALS = {errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOSYS}
_OF_THIS_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
# Their packages may not be installed, so their classes are known by name only.
_REFUSED_BY_CLIENT = {
    *("NoCredentialsError", "PartialCredentialsError", "ParamValidationError", "InvalidURL"),
    *("ProfileNotFound", "TokenRetrievalError", "UnauthorizedSSOTokenError", "NoRegionError"),
}
_CLIENTS = {"botocore", "aiobotocore", "aiohttp", "fsspec", "gcsfs", "google", "azure", "asyncio"}
_TRY_AGAIN_STATUS = {408, 425, 429}

_logger = logging.getLogger(__name__)
T = TypeVar("T")


def attempt(url: str, action: Callable[[], T]) -> T:
    """Do something with a server, again and again while it does not answer.

    Args:
        url: What it is about, for messages.
        action: What to do; it may be done more than once.

    Raises:
        FileNotFoundError: There is no such file.
        StorageError: The server refuses, or did not answer for ``$REGIONSPOT_RETRY_SECONDS``.
        StoppedError: A signal was noted meanwhile.
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
                    " AWS_SECRET_ACCESS_KEY or AWS_PROFILE, AWS_ENDPOINT_URL). A server that may"
                    " not list a folder answers so for missing files, too."
                ) from error
            if time.monotonic() + delay > deadline:
                raise StorageError(
                    f"{url}: the server does not answer ({_reason(error)}), tried for"
                    f" {_retry_seconds():g} s (${RETRY_VARIABLE}). Nothing is lost: give the same"
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
    """Say whether it is neither a bug nor a matter of this machine's disk."""
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
