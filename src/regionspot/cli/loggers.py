"""Where a run is logged: CSV and TensorBoard always, and what the user asks for beside them."""

import os
from collections.abc import Iterable
from pathlib import Path

from jsonargparse import Namespace
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from regionspot.core.extras import needs_extra

DEFAULT_LOGGERS = (CSVLogger, TensorBoardLogger)
_WANDB_CLASS = "WandbLogger"


def loggers(run_dir: Path, *, given: Logger | Iterable[Logger] | bool | None) -> list[Logger]:
    """Return the loggers of a run.

    Args:
        run_dir: The folder of the run.
        given: The option ``trainer.logger``: loggers to add, or false for none at all.
    """
    if given is False:
        return []
    added = [given] if isinstance(given, Logger) else []
    if isinstance(given, Iterable):
        added = list(given)
    # Numbered, since CSVLogger deletes what a former run, perhaps the one resumed, has written.
    return [
        CSVLogger(save_dir=run_dir, name="csv"),
        TensorBoardLogger(save_dir=run_dir, name="tensorboard"),
        *added,
    ]


def complete_wandb(run_dir: Path, *, given: Namespace | list[Namespace] | bool | None) -> None:
    """Fill in what a W&B logger was not told: the run's name and folder.

    Args:
        run_dir: The folder of the run; its name becomes that of the run.
        given: The option ``trainer.logger`` before it is instantiated; changed in place.

    Raises:
        MissingExtraError: W&B is asked for and not installed.
    """
    for option in given if isinstance(given, list) else [given]:
        if not isinstance(option, Namespace):
            continue
        if option.class_path.rsplit(".", 1)[-1] != _WANDB_CLASS:
            continue
        with needs_extra("wandb"):
            import wandb  # noqa: F401 - Lightning says only that it is missing
        run_dir.mkdir(parents=True, exist_ok=True)  # or W&B warns that it is not there
        told = option.init_args
        told.name = told.name or run_dir.name
        told.project = told.project or os.environ.get("WANDB_PROJECT", "regionspot")
        if told.save_dir == ".":  # the default
            told.save_dir = str(run_dir)
