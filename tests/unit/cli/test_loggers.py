"""CSV and TensorBoard are always there; what the user asks for comes beside them."""

import sys
from pathlib import Path

import pytest
from jsonargparse import Namespace
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from regionspot.cli.train import complete_wandb, loggers
from regionspot.core.errors import MissingExtraError

DEFAULTS = ["csv", "tensorboard"]


@pytest.mark.parametrize("given", [None, True])
def test_csv_and_tensorboard_are_the_default(tmp_path: Path, *, given: bool | None) -> None:
    csv_logger, board = loggers(tmp_path, given=given)
    assert isinstance(csv_logger, CSVLogger)
    assert isinstance(board, TensorBoardLogger)
    assert (csv_logger.save_dir, board.save_dir) == (str(tmp_path), str(tmp_path))


def test_given_loggers_are_added(tmp_path: Path) -> None:
    mine: list[Logger] = [CSVLogger(tmp_path, name=name) for name in ("one", "two")]
    assert [one.name for one in loggers(tmp_path, given=mine)] == [*DEFAULTS, "one", "two"]
    assert [one.name for one in loggers(tmp_path, given=mine[0])] == [*DEFAULTS, "one"]


def test_false_is_no_logger_at_all(tmp_path: Path) -> None:
    assert loggers(tmp_path, given=False) == []


def asked_for(**told: str) -> Namespace:
    """Return the option as jsonargparse hands it over."""
    wanted = Namespace()
    wanted["class_path"] = "lightning.pytorch.loggers.WandbLogger"
    for name, default in {"name": None, "save_dir": ".", "project": None}.items():
        wanted[f"init_args.{name}"] = told.get(name, default)
    return wanted


def test_wandb_is_told_only_what_the_user_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    plain, full = asked_for(), asked_for(name="mine", save_dir="logs", project="regions")
    complete_wandb(tmp_path / "bl_fast", given=[plain, full])
    found = [
        (one.init_args.name, one.init_args.save_dir, one.init_args.project) for one in (plain, full)
    ]
    assert found == [
        ("bl_fast", str(tmp_path / "bl_fast"), "regionspot"),
        ("mine", "logs", "regions"),
    ]
    monkeypatch.setenv("WANDB_PROJECT", "of the lab")
    complete_wandb(tmp_path / "bl_fast", given=(again := asked_for()))
    assert again.init_args.project == "of the lab"


def test_a_missing_wandb_is_told_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtraError, match=r'pip install "regionspot\[wandb\]"'):
        complete_wandb(tmp_path, given=asked_for())
    complete_wandb(tmp_path, given=None)
    complete_wandb(tmp_path, given=False)
