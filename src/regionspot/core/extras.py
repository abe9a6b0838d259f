"""Optional packages: SAM and CLIP come with the extra ``extract``, which a training job lacks."""

from collections.abc import Iterator
from contextlib import contextmanager

from regionspot.core.errors import MissingExtraError


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Turn a failed import inside the block into a message that says what to install.

    Args:
        extra: Name of the optional-dependencies group in ``pyproject.toml``.

    Raises:
        MissingExtraError: A module imported inside the block is not installed.
    """
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(
            f"the package {error.name!r} is not installed ({error}). It comes with the extra"
            f' {extra!r}: pip install "regionspot[{extra}]".'
        ) from error
