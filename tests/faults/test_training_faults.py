"""Training that is killed, meets numbers that are none, or finds its cache damaged."""

import csv
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.files import flip_bit
from regionspot.cache import read_sidecar, shard_path
from regionspot.cli.train import train
from regionspot.core.errors import NotFiniteError
from regionspot.core.stopping import answer_signal, forget_signal
from regionspot.training.callbacks import check_weights

MakeCache = Callable[..., Path]
TrainConfig = Callable[..., Path]
ROOT = Path(__file__).parents[2]
E2E = ROOT / "tests" / "e2e"

# Lightning's, of resuming into the folder that it resumes from.
pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* is not empty:UserWarning")


@pytest.fixture(autouse=True)
def _few_threads_and_the_recorder(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.syspath_prepend(str(E2E))


def recorder(folder: Path, *, kill_at_step: int = 0, by: str = "SIGKILL") -> list[str]:
    return [
        *("--allow_code", "ranks_worker"),
        *("--trainer.callbacks+=ranks_worker.Recorder", "--trainer.callbacks.folder", str(folder)),
        *("--trainer.callbacks.kill_at_step", str(kill_at_step)),
        *("--trainer.callbacks.kill_by", by),
    ]


def recorded(folder: Path, rank: int = 0) -> list[dict[str, Any]]:
    text = (folder / f"rank{rank}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def run_train(*words: str, launcher: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Run ``train.py`` in a process of its own."""
    return run_python(*launcher, str(ROOT / "train.py"), *words)


def run_python(*words: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(E2E), *sys.path])
    return subprocess.run(
        [sys.executable, *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def run_on_two_ranks(folder: Path, config: Path) -> subprocess.CompletedProcess[str]:
    """Train on all images in order: of batches of 4, even ones are rank 0's, odd ones rank 1's."""
    words = ["in-order", "fit", "--config", str(config), "--trainer.strategy", "ddp"]
    commands = folder / "commands.json"
    commands.write_text(json.dumps([[*words, "--trainer.devices", "2"]]), encoding="utf-8")
    return run_python(str(E2E / "ranks_worker.py"), str(commands))


def logged(run: Path, first_step: int) -> list[tuple[str, ...]]:
    """The logged text from a step on, counted from 0: step, loss, gradient norm, learning rate."""
    *_, newest = sorted(run.glob("csv/version_*/metrics.csv"))
    names = ("step", "train/loss", "train/grad_norm", "train/lr")
    with newest.open(encoding="utf-8") as file:
        rows = [tuple(row[name] for name in names) for row in csv.DictReader(file)]
    return [row for row in rows if int(row[0]) >= first_step]


# 12 images in batches of 4 are 3 steps an epoch, and every fifth step is saved.
KILLED_AT = [
    int(np.random.default_rng(2).integers(6, 19)),
    *(pytest.param(step, marks=pytest.mark.slow) for step in (6, 10, 15, 19)),
]


@pytest.mark.parametrize("step", KILLED_AT)
def test_a_killed_run_goes_on_with_the_same_images_and_the_same_losses(
    step: int, make_cache: MakeCache, train_config: TrainConfig, tmp_path: Path
) -> None:
    config = train_config(make_cache(), max_steps=20, save_every=5, dropout=0.1)
    fit = ["fit", "--config", str(config), "--trainer.default_root_dir"]
    train([*fit, str(tmp_path / "undisturbed"), *recorder(tmp_path / "all")])
    run = tmp_path / "killed"
    killed = run_train(*fit, str(run), *recorder(tmp_path / "first", kill_at_step=step))
    assert killed.returncode == -9, killed.stderr
    assert len(recorded(tmp_path / "first")) == step
    last = run / "checkpoints" / "last.ckpt"
    train([*fit, str(run), "--ckpt_path", str(last), *recorder(tmp_path / "rest")])

    saved = (step - 1) // 5 * 5  # it was killed before its own step was saved
    wanted = recorded(tmp_path / "all")
    assert len(wanted) == 20
    assert recorded(tmp_path / "first") == wanted[:step]
    assert recorded(tmp_path / "rest") == wanted[saved:]
    text = logged(tmp_path / "undisturbed", saved)
    assert len(text) >= 20 - saved
    assert logged(run, saved) == text


def test_control_c_saves_the_step_at_hand_and_says_how_to_go_on(
    make_cache: MakeCache,
    train_config: TrainConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = train_config(make_cache(), max_steps=20, save_every=50)
    before = signal.signal(signal.SIGINT, answer_signal)  # as the command does in its own process
    try:
        with pytest.raises(SystemExit) as exit_info:
            stopping = recorder(tmp_path / "seen", kill_at_step=3, by="SIGINT")
            train(["fit", "--config", str(config), *stopping])
    finally:
        signal.signal(signal.SIGINT, before)
        forget_signal()
    assert exit_info.value.code == 130
    assert capsys.readouterr().err.splitlines()[-1] == (
        "interrupted: add --ckpt_path last to the same command to resume from the last checkpoint"
    )
    assert len(recorded(tmp_path / "seen")) == 3
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 3
    assert not (tmp_path / "run" / "head").exists()


@pytest.mark.parametrize(
    ("by", "devices", "accumulate"),
    [
        ("SIGTERM", 1, 3),
        pytest.param("SIGINT", 1, 1, marks=pytest.mark.slow),
        pytest.param("SIGTERM", 1, 1, marks=pytest.mark.slow),
        pytest.param("SIGTERM", 2, 1, marks=pytest.mark.slow),
        pytest.param("SIGINT", 2, 1, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_a_signal_ends_is_no_success_and_goes_on_where_it_was(
    by: str,
    devices: int,
    accumulate: int,
    make_cache: MakeCache,
    train_config: TrainConfig,
    tmp_path: Path,
) -> None:
    config = train_config(make_cache(), max_steps=20, save_every=50, dropout=0.1)
    fit = ["fit", "--config", str(config), "--trainer.accumulate_grad_batches", str(accumulate)]
    train([*fit, "--trainer.default_root_dir", str(tmp_path / "all"), *recorder(tmp_path / "all")])
    ended = run_train(
        *(*fit, "--trainer.strategy", "ddp", "--trainer.devices", str(devices)),
        # Sent to all ranks, as by `scancel` and by a terminal.
        *recorder(tmp_path / "first", kill_at_step=12, by=by),
    )
    code, word = {"SIGTERM": (143, "terminated"), "SIGINT": (130, "interrupted")}[by]
    assert ended.returncode == code, ended.stderr
    *_, last = ended.stderr.splitlines()
    assert last == (
        f"{word}: add --ckpt_path last to the same command to resume from the last checkpoint"
    )
    assert "Traceback" not in ended.stderr
    assert "Exception ignored" not in ended.stderr
    for once in ("GPU available", "images to train on", "An epoch has 3 batches"):
        assert ended.stderr.count(once) == 1
    assert "litlogger" not in ended.stderr
    for rank in range(devices):
        # The step at hand was finished and saved, and no other begun.
        assert len(recorded(tmp_path / "first", rank)) == 12 * accumulate
    run = tmp_path / "run"
    assert [path.name for path in run.glob("checkpoints/*")] == ["last.ckpt"]
    train([*fit, "--ckpt_path", "last", *recorder(tmp_path / "rest")])
    wanted = recorded(tmp_path / "all")[12 * accumulate :]
    rest = recorded(tmp_path / "rest")
    assert [line["keys"] for line in rest] == [line["keys"] for line in wanted]
    if devices == 1:
        assert logged(run, 12) == logged(tmp_path / "all", 12)


@pytest.mark.slow
def test_a_run_resumed_on_more_ranks_sees_every_image_once_an_epoch(
    make_cache: MakeCache, train_config: TrainConfig, tmp_path: Path
) -> None:
    cache = make_cache(num_images=20)  # 5 batches of 4
    fit = ["fit", "--config", str(train_config(cache, max_steps=1, save_every=1))]
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    seen: list[tuple[int, str]] = []
    for devices, max_steps in ((1, 3), (2, 7), (4, 15)):
        words = [
            *(*fit, "--trainer.max_steps", str(max_steps), *recorder(tmp_path / f"{devices}")),
            *("--trainer.strategy", "ddp", "--trainer.devices", str(devices)),
            # The newest last.ckpt of the run; none at first.
            *("--ckpt_path", "last"),
        ]
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
        done = run_train(*words, launcher=[*torchrun, str(devices)])
        assert done.returncode == 0, done.stderr
        assert last.exists()
        for rank in range(devices):
            for line in recorded(tmp_path / f"{devices}", rank):
                assert line["num_buffers_sent"] == 0  # text banks, 40 MB for V3Det's classes
                assert line["num_broadcasts"] == 0  # each would have to be waited for
                seen += [(line["epoch"], key) for key in line["keys"]]
    every_image = {f"image{number:03d}" for number in range(20)}
    assert Counter(seen) == Counter((epoch, key) for epoch in range(3) for key in every_image)


@pytest.mark.parametrize(
    ("late", "save_every", "stops_late"),
    # Late is as on a GPU: at a checkpoint, or when 16 losses have come together.
    [(False, 1000, False), (True, 1, False), (True, 1000, True)],
)
def test_a_loss_that_is_no_number_ends_the_run_with_the_keys_of_the_batch(
    *,
    late: bool,
    save_every: int,
    stops_late: bool,
    make_cache: MakeCache,
    train_config: TrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("regionspot.core.devices.would_sync", lambda _loss: late)
    cache = make_cache(huge={7}, codec="bfloat16")
    config = train_config(cache, max_steps=20, save_every=save_every)
    with pytest.raises(SystemExit) as exit_info:
        train(["fit", "--config", str(config), *recorder(tmp_path / "seen")])
    assert exit_info.value.code == 2
    error = capsys.readouterr().err
    lines = recorded(tmp_path / "seen")
    bad = next(line for line in lines if "image007" in line["keys"])
    assert len(lines) == (16 if stops_late else bad["step"])
    assert f"step {bad['step']} " in error
    assert f": {', '.join(bad['keys'])}. " in error
    assert f"regionspot cache verify {cache}" in error
    assert "Traceback" not in error
    assert not (tmp_path / "run" / "head").exists()
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert checkpoint.exists() == (save_every == 1 and bad["step"] > 1)
    if checkpoint.exists():
        content = torch.load(checkpoint, weights_only=True)
        assert content["global_step"] == bad["step"] - 1
        assert all(tensor.isfinite().all() for tensor in content["state_dict"].values())


def test_weights_that_are_not_finite_are_never_saved() -> None:
    good, bad = torch.ones(3), torch.tensor([1.0, torch.inf])
    check_weights({"a": good, "b": good}, step=3)
    with pytest.raises(NotFiniteError, match=r"after step 3 .* 1 tensors, b among them"):
        check_weights({"a": good, "b": bad}, step=3)


def flip_byte_of_image(cache: Path, shard: int, row: int) -> None:
    """Flip one bit in the feature map of an image."""
    offset = int(read_sidecar(cache, shard).offsets[row, 1]) + 128
    flip_bit(shard_path(cache, shard), offset, bit=0)


def test_a_damaged_shard_ends_the_run_with_its_name_and_the_repair_command(
    make_cache: MakeCache, train_config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = make_cache()
    config = train_config(cache, max_steps=20)
    flip_byte_of_image(cache, 1, 2)
    with pytest.raises(SystemExit) as exit_info:
        train(["fit", "--config", str(config)])
    assert exit_info.value.code == 2
    error = capsys.readouterr().err
    assert str(shard_path(cache, 1)) in error
    assert "regionspot cache repair" in error
    assert "Traceback" not in error


@pytest.mark.slow
@pytest.mark.parametrize("image", [5, 6])
def test_two_ranks_end_together_when_one_finds_damage(
    image: int, make_cache: MakeCache, train_config: TrainConfig, tmp_path: Path
) -> None:
    cache = make_cache()
    config = train_config(cache, max_steps=20)
    flip_byte_of_image(cache, 1, image - 5)
    done = run_on_two_ranks(tmp_path, config)
    assert done.returncode == 2, done.stderr
    assert str(shard_path(cache, 1)) in done.stderr
    assert "regionspot cache repair" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("image", [5, 6])
def test_two_ranks_end_together_at_a_loss_that_is_no_number(
    image: int, make_cache: MakeCache, train_config: TrainConfig, tmp_path: Path
) -> None:
    config = train_config(make_cache(huge={image}, codec="bfloat16"), max_steps=20)
    done = run_on_two_ranks(tmp_path, config)
    assert done.returncode == 2, done.stderr
    assert f"image00{image}" in done.stderr
    assert "Traceback" not in done.stderr
