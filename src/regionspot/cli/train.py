"""``train.py``: LightningCLI around `RegionSpotModule` and `CachedRegions`.

A run writes below ``trainer.default_root_dir``: ``config.yaml``, ``csv/version_*/metrics.csv``,
``tensorboard/``, ``checkpoints/`` and, at the end, ``head/`` (see `load_trained_head`) and
``summary.json``. ``trainer.logger`` adds loggers to those for CSV and TensorBoard.
"""

import logging
import math
import os
import re
import sys
import warnings
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

import lightning.pytorch as pl
import torch
import yaml
from jsonargparse import Namespace
from jsonargparse.typing import PositiveInt
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar, TQDMProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from regionspot.cli.options import (
    ALLOW_CODE,
    code_limited_to,
    prepare_parsing,
    readable_files,
    take_allow_code,
    unknown_option,
)
from regionspot.cli.run import reported_errors
from regionspot.core.errors import ConfigError, MissingExtraError
from regionspot.core.files import folder_lock, write_text_atomic
from regionspot.core.stopping import end_with_process, stop_advice
from regionspot.core.text import needs_extra
from regionspot.core.workers import threads_of_torch
from regionspot.data import CachedRegions
from regionspot.model import RUN_FOLDER
from regionspot.storage import is_url
from regionspot.training import (
    SUMMARY_NAME,
    ImagesPerSecond,
    LossByCache,
    RegionSpotModule,
    export_head,
    find_checkpoint,
    kill_launched_ranks,
    remove_strays,
    summarize,
)

DEFAULT_LOGGERS = (CSVLogger, TensorBoardLogger)
_DENIED = re.compile(r"Importing '([\w.]+)' is not allowed|names ([\w.]+), which is neither")
"""jsonargparse's message, or our own when the parser is nested."""

_UPSTREAM_WARNINGS = (
    # Lightning 2.6 uses names that new releases of jsonargparse and torch deprecate.
    "JsonargparseDeprecationWarning",
    "instantiate_classes",
    "LeafSpec",
    # Not a problem: steps are counted over epochs, so that short epochs are logged as well.
    "is smaller than the logging interval",
)
_RESUME = "add --ckpt_path last to the same command to resume from the last checkpoint"
_LOGGER = logging.getLogger(__name__)


def loggers(run_dir: Path, *, given: Logger | Iterable[Logger] | bool | None) -> list[Logger]:
    """Return the loggers of a run.

    Args:
        run_dir: The folder of the run.
        given: The option ``trainer.logger``: loggers to add, or false for no loggers.
    """
    if given is False:
        return []
    added = list(given) if isinstance(given, Iterable) else [given]
    # Versioned, since CSVLogger deletes the files of an earlier run, even if this one resumes it.
    return [
        CSVLogger(save_dir=run_dir, name="csv"),
        TensorBoardLogger(save_dir=run_dir, name="tensorboard"),
        *(logger for logger in added if isinstance(logger, Logger)),
    ]


def complete_wandb(run_dir: Path, *, given: Namespace | list[Namespace] | bool | None) -> None:
    """Fill in the defaults of a W&B logger: the run's name, project and folder.

    Args:
        run_dir: The folder of the run; its name becomes that of the run.
        given: The option ``trainer.logger`` before it is instantiated; changed in place.

    Raises:
        MissingExtraError: A W&B logger is configured, but W&B is not installed.
    """
    for option in given if isinstance(given, list) else [given]:
        if not isinstance(option, Namespace) or not option.class_path.endswith(".WandbLogger"):
            continue
        with needs_extra("wandb"):
            import wandb  # noqa: F401 - for an error that names the extra to install
        run_dir.mkdir(parents=True, exist_ok=True)  # W&B warns if it does not exist
        told = option.init_args
        told.name = told.name or run_dir.name
        told.project = told.project or os.environ.get("WANDB_PROJECT", "regionspot")
        if told.save_dir == ".":  # the default
            told.save_dir = str(run_dir)


class LimitedArgumentParser(LightningArgumentParser):
    """Names ``--allow_code`` in the error about options that name other code."""

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the error and exit with 2, or raise ConfigError for code that is not allowed."""
        denied = _DENIED.search(message)
        if denied is None:
            parser = getattr(ex, "subcommand_parser", None) or self
            short = unknown_option(message, parser)
            if short is None:
                super().error(message, ex)
            print(f"error: {short}", file=sys.stderr)
            raise SystemExit(2)
        path = denied[1] or denied[2]
        module = path.rpartition(".")[0]
        raise ConfigError(
            f"an option or a configuration names {path}, which is neither part of RegionSpot nor of"
            " Lightning, and importing it runs its code. If you trust that code, allow it on the"
            f" command line: {ALLOW_CODE} {module}"
        ) from None


class SaveConfig(SaveConfigCallback):
    """Saves the configuration of a run as ``config.yaml`` in its folder."""

    @override
    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write the file; of other commands than ``fit`` the name has a prefix."""
        run_dir = Path(trainer.default_root_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        name = self.config_filename
        path = run_dir / (name if stage == "fit" else f"{stage}_{name}")
        self.parser.save(self.config, str(path), overwrite=True)
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        for logger in trainer.loggers:
            if not isinstance(logger, DEFAULT_LOGGERS):
                logger.log_hyperparams(config)


class TrainCLI(LightningCLI):
    """Commands ``fit`` and ``validate``; the widths of the head come from the caches."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Parse and run, and release locks at the end."""
        with ExitStack() as self._until_end:
            super().__init__(*args, **kwargs)

    @staticmethod
    @override
    def subcommands() -> dict[str, set[str]]:
        """Return the commands, with the arguments of Trainer methods that are not options."""
        known = LightningCLI.subcommands()
        return {name: known[name] for name in ("fit", "validate")}

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link options that share a value, and add our own."""
        parser.link_arguments("data.spec", "model.spec", apply_on="instantiate")
        # One seed for initial weights and the order of images.
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)
        parser.add_argument(
            "--val_annotations",
            type=str | None,
            default=None,
            help="LVIS annotation file that the cache data.val was made from. With it, validation"
            " logs LVIS AP (val/AP, val/APr, val/APc, val/APf). Without it, validation logs COCO AP"
            " (val/AP) of the regions in data.val, or only val/top1 if the cache is of LVIS or of"
            " proposals.",
        )
        parser.add_argument(
            "--max_images",
            type=PositiveInt | None,
            default=None,
            help="Stop training after this number of images, counted over all devices and with"
            " repeats. Replaces trainer.max_steps.",
        )
        parser.add_argument(
            "--num_threads",
            type=PositiveInt | None,
            default=None,
            help="Number of torch threads in each process; by default OMP_NUM_THREADS, or one per"
            " core. On a busy CPU, 1 is fastest for heads as small as the toy world's, as threads"
            " wait for each other.",
        )
        parser.add_argument(
            ALLOW_CODE,
            type=str | None,
            default=None,
            help="Packages or modules, separated by commas, whose classes and functions options"
            " may name in addition to those of RegionSpot and Lightning. Naming them runs their"
            " code. Only on the command line.",
        )

    @override
    def before_instantiate_classes(self) -> None:
        """Lock the folder of the run, and complete the options of W&B."""
        options = self.config[self.subcommand]
        if options.allow_code is not None:
            raise ConfigError(
                f"a configuration has allow_code: {options.allow_code}. Configurations cannot allow"
                f" code to run: give {ALLOW_CODE} on the command line."
            )
        run_dir = _run_dir(options)
        if self.subcommand == "fit" and _is_rank_zero():
            advice = "Wait for it to end, or give another --trainer.default_root_dir."
            self._until_end.enter_context(folder_lock(run_dir, advice=advice))
            remove_strays(run_dir)
        if options.num_threads is not None:
            self._until_end.enter_context(threads_of_torch(options.num_threads))
        complete_wandb(run_dir, given=options.trainer.logger)

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse ``args``; Lightning's version warns if the process has arguments as well."""
        with readable_files():
            self.config = parser.parse_args(args)

    @override
    def _parse_ckpt_path(self) -> None:
        """Do nothing: our checkpoints hold no options, and others are refused."""

    @override
    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Build the trainer, which writes everything below its ``default_root_dir``."""
        options = self.config_init[self.subcommand]
        run_dir = _run_dir(options)
        callbacks = list(options.trainer.callbacks or [])
        for callback in callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                callback.dirpath = str(run_dir / "checkpoints")
        options.ckpt_path = find_checkpoint(
            options.ckpt_path,
            run_dir=run_dir,
            callbacks=[c for c in callbacks if isinstance(c, ModelCheckpoint)],
            is_fit=self.subcommand == "fit",
        )
        self.throughput = ImagesPerSecond()
        added: list[pl.Callback] = [self.throughput]
        if len(self.datamodule.names) > 1:
            added.append(LossByCache(self.datamodule.names))
        is_shown = options.trainer.enable_progress_bar is not False
        if is_shown and not any(isinstance(callback, ProgressBar) for callback in callbacks):
            # The bar waits for the GPU whenever it shows a loss.
            added.append(TQDMProgressBar(refresh_rate=16 if torch.cuda.is_available() else 1))
        kwargs["callbacks"] = [*added, *self._validation(callbacks), *callbacks]
        kwargs["logger"] = loggers(run_dir, given=options.trainer.logger)
        if options.max_images is not None:
            kwargs["max_steps"] = self._max_steps(options)
        if self.datamodule.val_cache is None:
            kwargs["limit_val_batches"] = 0
        trainer = super().instantiate_trainer(**kwargs)
        end_with_process(lambda: kill_launched_ranks(trainer))
        return trainer

    def after_fit(self) -> None:
        """Write the trained head and the summary, and print the summary."""
        if not self.trainer.is_global_zero:
            return
        run_dir = Path(self.trainer.default_root_dir)
        export_head(run_dir / RUN_FOLDER, self.model.trained_head(), self.datamodule)
        summary = summarize(self.trainer, self.throughput)
        write_text_atomic(run_dir / SUMMARY_NAME, summary.to_json())
        print(f"{summary.line()} The trained head is in {run_dir / RUN_FOLDER}")

    def _max_steps(self, options: Namespace) -> int:
        """Return the number of optimizer steps for ``max_images`` images."""
        max_steps, max_images = options.trainer.max_steps, options.max_images
        if max_steps != -1:
            raise ConfigError(
                f"max_images is {max_images} and trainer.max_steps is {max_steps}; wanted only one"
                " of them. --max_images null overrides that of a configuration."
            )
        images_per_step: float = (
            self.datamodule.images_per_batch * options.trainer.accumulate_grad_batches
        )
        return math.ceil(max_images / images_per_step)

    def _validation(self, callbacks: Sequence[pl.Callback]) -> list[pl.Callback]:
        """Return the callback that computes AP, if there are annotations to compute it from."""
        options = self.config_init[self.subcommand]
        cache = self.datamodule.val_cache
        if cache is not None:
            # Imported here, since training alone needs no scoring package.
            from regionspot.scoring.callback import ApValidation, scores_itself

            if options.val_annotations is not None:
                return [ApValidation(options.val_annotations)]
            if scores_itself(cache):
                try:
                    return [ApValidation()]
                except MissingExtraError as error:
                    _LOGGER.warning("val/AP is not logged: %s", error)
        monitored = {c.monitor for c in callbacks if isinstance(c, ModelCheckpoint) and c.monitor}
        if any(name.startswith("val/AP") for name in monitored):
            raise ConfigError(
                f"a checkpoint callback monitors {', '.join(sorted(monitored))}, but no AP is"
                f" computed: data.val is {self.config[self.subcommand].data.val} and"
                f" val_annotations is {options.val_annotations}. Give both, or remove `monitor`"
                " from trainer.callbacks."
            )
        return []


@reported_errors()
def train(words: Sequence[str]) -> None:
    """Run ``fit`` or ``validate``; see ``python train.py --help``."""
    _log_to_console()
    prepare_parsing()
    with warnings.catch_warnings(), stop_advice(_RESUME):
        for message in _UPSTREAM_WARNINGS:
            warnings.filterwarnings("ignore", message=f"(?s).*{message}")
        remaining, allowed = take_allow_code(words)
        with code_limited_to(allowed):
            TrainCLI(
                RegionSpotModule,
                CachedRegions,
                save_config_callback=SaveConfig,
                save_config_kwargs={"save_to_log_dir": False, "overwrite": True},
                seed_everything_default=0,
                parser_class=LimitedArgumentParser,
                args=remaining,
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
            )


def _log_to_console() -> None:
    """Print log messages once: ours on rank 0, and Lightning's through the same handler."""
    level = logging.INFO if _is_rank_zero() else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s")
    for name in ("lightning", "lightning.fabric", "lightning.pytorch"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_advertisement)


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return "litlogger" not in record.getMessage()  # Lightning recommends another product


def _is_rank_zero() -> bool:
    return getattr(rank_zero_only, "rank", 0) == 0


def _run_dir(options: Namespace) -> Path:
    if is_url(options.trainer.default_root_dir or ""):
        raise ConfigError(
            f"trainer.default_root_dir is {options.trainer.default_root_dir}; wanted a local"
            " folder. Copy the run to the URL when it has finished."
        )
    return Path(options.trainer.default_root_dir or Path.cwd())
