"""The files of a trained head, and where they are: at a path, or on the Hugging Face Hub."""

from pathlib import Path
from typing import Final

from regionspot.core.errors import ConfigError, MissingFileError
from regionspot.storage import HUB_PREFIX, download_from_hub

WEIGHTS_SUFFIX: Final = ".safetensors"
WEIGHTS_NAME: Final = f"head{WEIGHTS_SUFFIX}"
CARD_NAME: Final = "head.json"
RUN_FOLDER: Final = "head"
SHARED_HEAD_FILES: Final = (WEIGHTS_NAME, CARD_NAME, "text_banks.h5")
"""What is shared of a head: the files of `save_trained_head`, and its names' embeddings if there
are any (`cache.text_banks_path`). None of them can run code."""


def find_head(
    name_or_path: Path | str,
    *,
    revision: str | None,
    token: str | None,
    local_files_only: bool,
    cache_dir: str | Path | None,
) -> Path:
    """Return the file of a head's weights; one on the Hub is downloaded unless it was before.

    Arguments and errors as in `load_trained_head`.
    """
    path = Path(name_or_path)
    if str(name_or_path).startswith(HUB_PREFIX):
        path = download_from_hub(
            str(name_or_path),
            SHARED_HEAD_FILES,
            revision=revision,
            token=token,
            local_files_only=local_files_only,
            cache_dir=cache_dir,
        )
    elif revision is not None or token is not None or local_files_only or cache_dir is not None:
        raise ConfigError(
            f"{name_or_path} is a local path, for which revision=, token=, local_files_only= and"
            f" cache_dir= mean nothing. For a head on the Hub give {HUB_PREFIX}owner/name."
        )
    where = str(path)
    if path.is_dir():
        in_run, directly = path / RUN_FOLDER / WEIGHTS_NAME, path / WEIGHTS_NAME
        where = f"{in_run}, nor at {directly}"
        path = in_run if in_run.is_file() else directly
    if not path.is_file():
        raise MissingFileError(
            f"no trained head at {where}. Give the directory or a .ckpt of a run of `python"
            f" train.py fit`, the path of a .safetensors file, or {HUB_PREFIX}owner/name on the"
            " Hugging Face Hub. `regionspot quickstart` creates the run runs/quickstart and"
            " restores removed files; with --fresh it starts over."
        )
    return path
