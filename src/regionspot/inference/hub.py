"""Heads on the Hugging Face Hub, and folders as they are uploaded there."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from regionspot.cache import text_banks_path
from regionspot.core.errors import ConfigError, MissingFileError
from regionspot.core.files import sha256_file, write_bytes_atomic, write_text_atomic
from regionspot.core.text import needs_extra
from regionspot.inference.model_card import read_metrics, write_model_card
from regionspot.model import HEAD_FILES, TrainedHead, save_trained_head
from regionspot.storage import StorageError

HUB_PREFIX: Final = "hf://"
"""Start of the name of a head on the Hub: ``hf://owner/name``."""

_CARD_NAME = "README.md"


def local_head(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    token: str | None = None,
    local_files_only: bool = False,
    cache_dir: str | Path | None = None,
) -> Path:
    """Return the local path of a head; one on the Hub is downloaded unless it was before.

    Only the files of a head are downloaded, none of which can run code.

    Args:
        name_or_path: A local path, or ``hf://owner/name``.
        revision: Branch, tag or commit on the Hub; None is the main branch.
        token: The Hub's access token; None takes that of ``hf auth login``, if any.
        local_files_only: Whether to use earlier downloads without asking the Hub.
        cache_dir: Where downloads are kept; None is the Hub client's folder.

    Raises:
        ConfigError: The name is not ``hf://owner/name``, or there are options of the Hub for a
            local path.
        MissingFileError: The Hub has no such head, or it was not downloaded before.
        StorageError: The Hub refuses access or does not answer.
        MissingExtraError: The extra ``hub`` is not installed.
    """
    if not str(name_or_path).startswith(HUB_PREFIX):
        if revision is not None or token is not None or local_files_only or cache_dir is not None:
            raise ConfigError(
                f"{name_or_path} is a local path, for which revision=, token=, local_files_only="
                f" and cache_dir= mean nothing. For a head on the Hub give {HUB_PREFIX}owner/name."
            )
        return Path(name_or_path)
    with needs_extra("hub"):
        from huggingface_hub import snapshot_download
    with _readable_errors(str(name_or_path)):
        folder = snapshot_download(
            str(name_or_path).removeprefix(HUB_PREFIX),
            revision=revision,
            token=token,
            local_files_only=local_files_only,
            cache_dir=cache_dir,
            allow_patterns=list(_head_files()),
        )
    return Path(folder)


def save_head(
    folder: Path | str,
    trained_head: TrainedHead,
    *,
    location: str | None = None,
    metrics: Path | str | None = None,
    weights_license: str | None = None,
) -> None:
    """Write the files of a head and a model card; see `RegionSpot.save_pretrained`."""
    folder = Path(folder)
    figures = None if metrics is None else read_metrics(metrics)  # before anything is written
    banks = None if trained_head.folder is None else text_banks_path(trained_head.folder)
    kept = banks.read_bytes() if banks is not None and banks.is_file() else None
    save_trained_head(folder, trained_head)
    if kept is not None:
        write_bytes_atomic(text_banks_path(folder), kept)
    written = [folder / name for name in _head_files() if (folder / name).is_file()]
    card = write_model_card(
        trained_head.card,
        location=location or str(folder),
        checksums={path.name: sha256_file(path) for path in written},
        metrics=figures,
        weights_license=weights_license,
    )
    write_text_atomic(folder / _CARD_NAME, card)


def upload_head(
    repo_id: str,
    trained_head: TrainedHead,
    *,
    token: str | None,
    private: bool | None,
    revision: str | None,
    commit_message: str,
    **card_options: Any,
) -> str:
    """Upload a head in one commit and return its URL; see `RegionSpot.push_to_hub`."""
    with needs_extra("hub"):
        from huggingface_hub import HfApi
    repo_id = repo_id.removeprefix(HUB_PREFIX)
    location = f"{HUB_PREFIX}{repo_id}"
    with tempfile.TemporaryDirectory() as folder:
        save_head(folder, trained_head, location=location, **card_options)
        with _readable_errors(location):
            api = HfApi(token=token)
            api.create_repo(repo_id, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                revision=revision,
                commit_message=commit_message,
            )
    return str(commit.commit_url)


def _head_files() -> tuple[str, ...]:
    return (*HEAD_FILES, text_banks_path(Path()).name)


@contextmanager
def _readable_errors(name: str) -> Iterator[None]:
    """Turn errors of the Hub's client into ours."""
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
