"""Which file ``--ckpt_path`` means, and which files are removed."""

import os
from functools import partial
from pathlib import Path

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from helpers.files import tree
from regionspot.core.errors import ConfigError, MissingFileError
from regionspot.training import SealedCheckpointIO, find_checkpoint


def test_the_words_for_checkpoints_name_files(tmp_path: Path) -> None:
    run, folder = tmp_path, tmp_path / "checkpoints"
    folder.mkdir()
    best = ModelCheckpoint(folder, filename="best-{step}", monitor="val/AP")
    find = partial(find_checkpoint, run_dir=run, callbacks=[best], is_fit=True)
    assert find(None) is None
    assert find("last") is None  # the first start
    for word in ("best", "hpc", str(folder / "x.ckpt"), "registry:x"):
        with pytest.raises(MissingFileError, match=r"has no checkpoints"):
            find(word)
    with pytest.raises(MissingFileError, match=r"has no checkpoints"):
        find_checkpoint("last", run_dir=run, callbacks=[best], is_fit=False)
    for number, name in enumerate(("last-v1", "last", "best-step=3", "other")):
        path = folder / f"{name}.ckpt"
        path.touch()
        os.utime(path, ns=(number, number))
    for number in (2, 10):
        (run / f"hpc_ckpt_{number}.ckpt").touch()
    assert find("last") == str(folder / "last.ckpt")
    assert find("best") == str(folder / "best-step=3.ckpt")
    assert find("hpc") == str(run / "hpc_ckpt_10.ckpt")
    assert find(str(folder / "other.ckpt")) == str(folder / "other.ckpt")
    (folder / "best-step=4.ckpt").touch()
    with pytest.raises(ConfigError, match=r"best could be .*step=3\.ckpt, .*step=4\.ckpt"):
        find("best")
    with pytest.raises(ConfigError, match="is a URL"):
        find("s3://bucket/last.ckpt")


def test_only_a_checkpoint_s_file_is_removed(tmp_path: Path) -> None:
    (tmp_path / "folder.ckpt").mkdir()
    for name in ("notes.txt", "old.ckpt", "folder.ckpt/notes.txt"):
        (tmp_path / name).touch()
    for name in ("notes.txt", "old.ckpt", "folder.ckpt", "nothing.ckpt"):
        SealedCheckpointIO().remove_checkpoint(tmp_path / name)
    assert list(tree(tmp_path)) == ["folder.ckpt/notes.txt", "notes.txt"]
