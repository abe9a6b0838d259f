"""Folders of heads as they are shared, and their upload to the Hugging Face Hub."""

import tempfile
from pathlib import Path
from typing import Any

from regionspot.cache import text_banks_path
from regionspot.core.files import sha256_file, write_bytes_atomic, write_text_atomic
from regionspot.core.text import needs_extra
from regionspot.inference.model_card import read_metrics, write_model_card
from regionspot.model import SHARED_HEAD_FILES, TrainedHead, save_trained_head
from regionspot.storage import HUB_PREFIX, hub_errors

_CARD_NAME = "README.md"


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
    written = [folder / name for name in SHARED_HEAD_FILES if (folder / name).is_file()]
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
        with hub_errors(location):
            api = HfApi(token=token)
            api.create_repo(repo_id, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                revision=revision,
                commit_message=commit_message,
            )
    return str(commit.commit_url)
