"""Files of the Hugging Face Hub: downloads, and the errors of its client."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from regionspot.core.errors import ConfigError, MissingFileError
from regionspot.core.text import needs_extra
from regionspot.storage.remote import StorageError

HUB_PREFIX: Final = "hf://"
"""Start of a name on the Hub: ``hf://owner/name``."""


def download_from_hub(
    name: str,
    files: Sequence[str],
    *,
    revision: str | None = None,
    token: str | None = None,
    local_files_only: bool = False,
    cache_dir: str | Path | None = None,
) -> Path:
    """Return a folder with files of a repository, downloading those that were not before.

    Args:
        name: ``hf://owner/name``.
        files: The files that are wanted; no others are downloaded.
        revision: Branch, tag or commit; None is the main branch.
        token: The Hub's access token; None takes that of ``hf auth login``, if any.
        local_files_only: Whether to use earlier downloads without asking the Hub.
        cache_dir: Where downloads are kept; None is the Hub client's folder.

    Raises:
        ConfigError: The name is not ``hf://owner/name``.
        MissingFileError: The Hub has no such repository, or it was not downloaded before.
        StorageError: The Hub refuses access or does not answer.
        MissingExtraError: The extra ``hub`` is not installed.
    """
    with needs_extra("hub"):
        from huggingface_hub import snapshot_download
    with hub_errors(name):
        folder = snapshot_download(
            name.removeprefix(HUB_PREFIX),
            revision=revision,
            token=token,
            local_files_only=local_files_only,
            cache_dir=cache_dir,
            allow_patterns=list(files),
        )
    return Path(folder)


@contextmanager
def hub_errors(name: str) -> Iterator[None]:
    """Turn errors of the Hub's client about ``hf://owner/name`` into ours."""
    from huggingface_hub import errors

    try:
        yield
    except errors.HFValidationError as error:
        raise ConfigError(
            f"{name} is no name on the Hub ({error}): give hf://owner/name."
        ) from error
    except errors.GatedRepoError as error:
        raise StorageError(
            f"{name}: access has to be requested on its page on the Hub; then pass token= or run"
            " `hf auth login`."
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise MissingFileError(
            f"the Hub has no {name}, no such revision, or you may not see it: check both, and pass"
            f" token= if it is private ({_first_line(error)})."
        ) from error
    except errors.LocalEntryNotFoundError as error:
        if error.__cause__ is None:  # the Hub was not asked
            raise MissingFileError(
                f"{name} was not downloaded before: leave local_files_only out."
            ) from error
        raise StorageError(
            f"{name} cannot be downloaded ({_first_line(error.__cause__)}): check the network, and"
            " pass token= if it is private."
        ) from error
    except (errors.HTTPError, OSError) as error:
        raise StorageError(f"{name}: the Hub's answer is {_first_line(error)}.") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
