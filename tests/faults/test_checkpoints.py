"""Checkpoints: hostile, foreign, damaged, cut off while they are written, or wanted by two runs."""

import contextlib
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import FSDPStrategy, SingleDeviceStrategy
from typing_extensions import override

from helpers.files import flip_bit, tree
from helpers.processes import kill_at_renames
from helpers.training import training_config
from regionspot.cli.train import train
from regionspot.core.errors import ConfigError, MissingFileError, RegionSpotError, WeightsError
from regionspot.core.files import folder_lock
from regionspot.data import CachedRegions
from regionspot.model import CHECKPOINT_CARD_KEY, load_trained_head, read_checkpoint
from regionspot.training import RegionSpotModule, SealedCheckpointIO
from regionspot.training.checkpoints import own_checkpoints

MakeCache = Callable[..., Path]
Capture = pytest.CaptureFixture[str]
NUM_FLIPS = 60

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* is not empty:UserWarning")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, make_module_cache: MakeCache) -> Path:
    """A folder with the configuration of a run of three steps, ``train.yaml``, and the run."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("trained")
    config = training_config(folder / "run", [make_module_cache()], max_steps=3, save_every=1)
    (folder / "train.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    train(["fit", "--config", str(folder / "train.yaml")])
    return folder


@pytest.fixture
def checkpoint(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run's checkpoint, alone in its folder."""
    path = tmp_path / "checkpoints" / "last.ckpt"
    path.parent.mkdir()
    path.write_bytes((trained / "run" / "checkpoints" / "last.ckpt").read_bytes())
    return path


class Touch:
    """Creates a file when it is unpickled: what a hostile checkpoint could do."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


def hostile(path: Path, marker: Path) -> Path:
    torch.save({"state_dict": {}, "x": Touch(marker), CHECKPOINT_CARD_KEY: "{}"}, path)
    return path


class Server(SimpleHTTPRequestHandler):
    num_requests = 0

    @override
    def log_message(self, format: str, *args: Any) -> None:
        Server.num_requests += 1


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A server on this machine, and its URL; what it serves lies in the test's folder."""
    Server.num_requests = 0
    handler = partial(Server, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def refused(words: list[str], capsys: Capture) -> str:
    """Run a command that has to exit with 2, and return its one line of error."""
    with pytest.raises(SystemExit) as exit_info:
        train(words)
    assert exit_info.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    (error,) = [line for line in lines if line.startswith("error: ")]
    assert lines[-1] == error
    return error


@pytest.mark.parametrize("command", ["fit", "validate"])
def test_a_checkpoint_behind_a_url_is_neither_fetched_nor_run(
    command: str, trained: Path, server: str, tmp_path: Path, capsys: Capture
) -> None:
    hostile(tmp_path / "evil.ckpt", tmp_path / "marker")
    url = f"{server}/evil.ckpt"
    words = [command, "--config", str(trained / "train.yaml"), "--ckpt_path", url]
    assert f"{url} is a URL" in refused(words, capsys)
    assert Server.num_requests == 0
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("command", ["fit", "validate"])
def test_a_checkpoint_that_would_run_code_is_one_line(
    command: str, trained: Path, checkpoint: Path, tmp_path: Path, capsys: Capture
) -> None:
    path = hostile(checkpoint.parent / "evil.ckpt", tmp_path / "marker")
    words = [command, "--config", str(trained / "train.yaml"), "--ckpt_path", str(path)]
    error = refused(words, capsys)
    assert error.startswith(f"error: {path} cannot be read as a checkpoint of plain tensors")
    assert f"Whole in this folder, newest first: {checkpoint}" in error
    assert not (tmp_path / "marker").exists()


def module_and_data(trained: Path) -> tuple[RegionSpotModule, CachedRegions]:
    config = yaml.safe_load((trained / "train.yaml").read_text(encoding="utf-8"))
    data = CachedRegions(config["data"]["train"], batch_size=4)
    return RegionSpotModule(data.spec), data


def quiet_trainer(folder: Path, **options: Any) -> pl.Trainer:
    return pl.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_steps=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **options,
    )


def test_no_trainer_reads_this_module_s_checkpoints_in_another_way(
    trained: Path, server: str, tmp_path: Path
) -> None:
    hostile(tmp_path / "evil.ckpt", tmp_path / "marker")
    url = f"{server}/evil.ckpt"
    module, data = module_and_data(trained)
    with pytest.raises(ConfigError, match="is a URL"):
        quiet_trainer(tmp_path).fit(module, datamodule=data, ckpt_path=url)
    with pytest.raises(ConfigError, match="load_trained_head"):
        RegionSpotModule.load_from_checkpoint(url)
    local = str(tmp_path / "evil.ckpt")
    with pytest.raises(ConfigError, match="weights_only is false"):
        quiet_trainer(tmp_path).fit(module, datamodule=data, ckpt_path=local, weights_only=False)
    assert Server.num_requests == 0
    assert not (tmp_path / "marker").exists()


def test_other_ways_to_write_and_read_checkpoints_are_refused(
    trained: Path, tmp_path: Path
) -> None:
    class Own(SealedCheckpointIO):
        pass

    module, data = module_and_data(trained)
    for options, message in (
        ({"strategy": SingleDeviceStrategy("cpu", checkpoint_io=Own())}, "checkpoint IO Own"),
        ({"plugins": [Own()]}, "checkpoint IO Own"),
        ({"callbacks": [ModelCheckpoint(tmp_path, save_last="link")]}, "save_last: link"),
    ):
        with pytest.raises(ConfigError, match=message):
            quiet_trainer(tmp_path, **options).fit(module, datamodule=data)
    trainer = quiet_trainer(tmp_path)
    # A trainer with FSDP wants a GPU.
    trainer._accelerator_connector.strategy = FSDPStrategy()
    with pytest.raises(ConfigError, match="FSDPStrategy has its own checkpoints.*ddp"):
        own_checkpoints(trainer)


def foreign(folder: Path, checkpoint: Path) -> dict[str, Path]:
    """Files that are given in place of a checkpoint, by what they are."""
    content = torch.load(checkpoint, weights_only=True)
    no_loops = {key: value for key, value in content.items() if key != "loops"}
    made: dict[str, Any] = {
        "empty": b"",
        "text": b"these are notes about the training\n" * 9,
        "cut": checkpoint.read_bytes()[:-5000],
        "half": checkpoint.read_bytes()[: checkpoint.stat().st_size // 2],
        "bare pickle": pickle.dumps({"state_dict": {}}),
        "weights of another network": {"state_dict": {"fc.weight": torch.ones(2, 2)}},
        "a list": [1, 2],
        "a card that is none": {CHECKPOINT_CARD_KEY: 3, "state_dict": {}},
        "no state_dict": {CHECKPOINT_CARD_KEY: "{}"},
        "a head without a training": no_loops,
    }
    paths = {}
    for name, value in made.items():
        paths[name] = folder / f"{name.replace(' ', '_')}.ckpt"
        if isinstance(value, bytes):
            paths[name].write_bytes(value)
        else:
            torch.save(value, paths[name])
    (folder / "folder.ckpt").mkdir()
    return {**paths, "a folder": folder / "folder.ckpt", "nothing": folder / "nothing.ckpt"}


def test_every_foreign_and_damaged_file_is_refused_by_name(
    checkpoint: Path, tmp_path: Path
) -> None:
    for name, path in foreign(tmp_path, checkpoint).items():
        with pytest.raises((WeightsError, MissingFileError)) as error_info:
            SealedCheckpointIO().load_checkpoint(path)
        assert str(path) in str(error_info.value), name
        assert "\n" not in str(error_info.value), name


@pytest.mark.parametrize("name", ["text", "half", "weights of another network", "a list"])
def test_the_command_line_says_it_in_one_line(
    name: str, trained: Path, checkpoint: Path, tmp_path: Path, capsys: Capture
) -> None:
    path = foreign(tmp_path, checkpoint)[name]
    words = ["fit", "--config", str(trained / "train.yaml"), "--ckpt_path", str(path)]
    assert str(path) in refused(words, capsys)


def test_a_checkpoint_of_another_head_or_of_weights_alone_is_one_line(
    trained: Path, checkpoint: Path, tmp_path: Path, capsys: Capture
) -> None:
    words = ["fit", "--config", str(trained / "train.yaml"), "--ckpt_path", str(checkpoint)]
    error = refused([*words, "--model.head.ffn_dim", "20"], capsys)
    assert "linear1.bias (24,) instead of (20,)" in error
    content = torch.load(checkpoint, weights_only=True)
    del content["optimizer_states"], content["lr_schedulers"]
    SealedCheckpointIO().save_checkpoint(content, checkpoint)
    assert "weights only" in refused([*words, "--trainer.max_steps", "4"], capsys)


def test_every_flipped_bit_of_a_checkpoint_is_refused(checkpoint: Path) -> None:
    good = checkpoint.read_bytes()
    rng = np.random.default_rng(0)
    # The ends of the file, where the archive's directory and the seal are, and samples of the rest.
    ends = [*range(64), *range(len(good) - 128, len(good))]
    for position in [*ends, *rng.integers(len(good), size=NUM_FLIPS).tolist()]:
        flip_bit(checkpoint, position, bit := int(rng.integers(8)))
        for load in (SealedCheckpointIO().load_checkpoint, load_trained_head):
            with pytest.raises(WeightsError):
                load(checkpoint)
        flip_bit(checkpoint, position, bit)
    assert checkpoint.read_bytes() == good
    assert SealedCheckpointIO().load_checkpoint(checkpoint)["global_step"] == 3


@pytest.mark.parametrize("name", ["head.json", "head.safetensors"])
def test_every_flipped_bit_of_a_head_is_refused(name: str, trained: Path, tmp_path: Path) -> None:
    for file in ("head.json", "head.safetensors"):
        (tmp_path / file).write_bytes((trained / "run" / "head" / file).read_bytes())
    path = tmp_path / name
    rng = np.random.default_rng(0)
    size = path.stat().st_size
    # The card's seal is its last line.
    for position in [*range(size - 80, size), *rng.integers(size, size=200).tolist()]:
        flip_bit(path, position, bit := int(rng.integers(8)))
        with pytest.raises(WeightsError):
            load_trained_head(tmp_path)
        flip_bit(path, position, bit)
    load_trained_head(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_whatever_becomes_of_an_unsealed_head_only_our_errors_come_of_it(
    seed: int, trained: Path, tmp_path: Path
) -> None:
    content = read_checkpoint(trained / "run" / "checkpoints" / "last.ckpt")
    torch.save(content, tmp_path / "last.ckpt")
    card = json.loads((trained / "run" / "head" / "head.json").read_text(encoding="utf-8"))
    del card["sha256"], card["weights_sha256"]
    weights = (trained / "run" / "head" / "head.safetensors").read_bytes()
    files = {
        "head.json": json.dumps(card).encode(),
        "head.safetensors": weights,
        "last.ckpt": (tmp_path / "last.ckpt").read_bytes(),
    }
    rng = np.random.default_rng(seed)
    for number in range(2000 // 4):
        for name, data in files.items():
            damaged = bytearray(data)
            # Mostly where the structure is: in the header, or near the end.
            place = (len(damaged), 600, 2000)[number % 3]
            for position in rng.integers(min(place, len(damaged)), size=1 + number % 3):
                damaged[position if number % 2 else -1 - position] = rng.integers(256)
            if number % 7 == 0:
                del damaged[int(rng.integers(len(damaged))) :]
            (tmp_path / name).write_bytes(damaged)
            for load in (load_trained_head, SealedCheckpointIO().load_checkpoint):
                with contextlib.suppress(RegionSpotError):
                    load(tmp_path / ("last.ckpt" if name == "last.ckpt" else "head.safetensors"))
            (tmp_path / name).write_bytes(data)


def test_a_checkpoint_of_before_there_were_seals_goes_on_with_a_warning(
    checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(torch.load(checkpoint, weights_only=True), checkpoint)
    assert SealedCheckpointIO().load_checkpoint(checkpoint)["global_step"] == 3
    (message,) = caplog.messages
    assert message.startswith(f"{checkpoint} has no checksum")


KILLER = """
import os, resource, signal, sys
from pathlib import Path
import torch
from regionspot.training import SealedCheckpointIO

path, kills = Path(sys.argv[1]), sys.argv[2].split(",")
io = SealedCheckpointIO()
former = io.load_checkpoint(path)
new = {**former, "global_step": former["global_step"] + 1}

def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)

for place in kills:
    if (process := os.fork()) == 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if place.isdigit():  # the kernel kills whoever writes a file beyond this byte
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(place), int(place)))
        elif place == "rename":
            sys.addaudithook(lambda name, args: kill() if name == "os.rename" else None)
        else:
            fsync, wanted, seen = os.fsync, int(place.removeprefix("fsync")), []
            def counted(descriptor):
                seen.append(descriptor)
                if len(seen) == wanted:
                    kill()
                fsync(descriptor)
            os.fsync = counted
        io.save_checkpoint(new, path)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    print(place, code, io.load_checkpoint(path)["global_step"] - former["global_step"])
    io.save_checkpoint(former, path)
"""


@pytest.mark.slow
def test_twenty_kills_while_a_checkpoint_is_written_lose_nothing(
    checkpoint: Path, tmp_path: Path
) -> None:
    size = checkpoint.stat().st_size
    places = [str(int(place)) for place in np.linspace(1, size - 1, 17)]
    kills = [*places, "fsync1", "rename", "fsync2"]
    # Nothing may take the way through $TMPDIR, which is often another file system.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(checkpoint), ",".join(kills)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(elsewhere)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    by_limit, by_kill = -signal.SIGXFSZ, -signal.SIGKILL
    assert [line.split() for line in done.stdout.splitlines()] == [
        *([place, f"{by_limit}", "0"] for place in places),
        ["fsync1", f"{by_kill}", "0"],
        ["rename", f"{by_kill}", "0"],
        ["fsync2", f"{by_kill}", "1"],  # it has its name already
    ]
    assert list(elsewhere.iterdir()) == []
    assert list(tree(checkpoint.parent)) == ["last.ckpt"]


def test_an_error_while_writing_leaves_the_former_checkpoint_and_no_stray_file(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(checkpoint.parent)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    content = SealedCheckpointIO().load_checkpoint(checkpoint)
    with pytest.raises(OSError, match="No space left"):
        SealedCheckpointIO().save_checkpoint(content, checkpoint)
    assert tree(checkpoint.parent) == before


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 3, 5])
def test_a_run_that_is_killed_while_it_writes_a_checkpoint_goes_on(
    number: int, trained: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = ["fit", "--config", str(trained / "train.yaml")]
    words += ["--trainer.default_root_dir", str(run), "--trainer.max_steps", "6"]
    assert kill_at_renames(words, [number]) == [-signal.SIGKILL]
    assert list(tree(run / "checkpoints")) == ["last.ckpt", "last.ckpt.tmp"]
    assert read_checkpoint(run / "checkpoints" / "last.ckpt")["global_step"] == number - 1
    train([*words, "--ckpt_path", "last"])
    assert list(tree(run / "checkpoints")) == ["last.ckpt"]
    assert read_checkpoint(run / "checkpoints" / "last.ckpt")["global_step"] == 6


@pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning")
def test_a_stray_file_of_a_killed_run_hides_no_checkpoint_and_is_removed(
    trained: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Lightning takes the highest number of all names with "hpc_ckpt_" in them.
    run = tmp_path / "run"
    run.mkdir()
    content = checkpoint.read_bytes()
    (run / "hpc_ckpt_1.ckpt").write_bytes(content)
    (run / "hpc_ckpt_2.ckpt.tmp").write_bytes(content[:100])
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setenv("SLURM_JOB_NAME", "train")
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("SLURM_LOCALID", "0")
    monkeypatch.setenv("SLURM_PROCID", "0")
    words = ["fit", "--config", str(trained / "train.yaml")]
    train([*words, "--trainer.default_root_dir", str(run), "--trainer.max_steps", "4"])
    assert not (run / "hpc_ckpt_2.ckpt.tmp").exists()
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    assert (summary["steps"], summary["images"]) == (4, 16)


@pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning")
def test_no_option_is_taken_from_a_checkpoint(
    trained: Path, checkpoint: Path, tmp_path: Path
) -> None:
    content = torch.load(checkpoint, weights_only=True)
    content["hyper_parameters"] = {"init_from": str(tmp_path / "head_of_a_stranger")}
    SealedCheckpointIO().save_checkpoint(content, checkpoint)
    words = ["fit", "--config", str(trained / "train.yaml"), "--ckpt_path", str(checkpoint)]
    run = tmp_path / "run"
    train([*words, "--trainer.default_root_dir", str(run), "--trainer.max_steps", "4"])
    assert load_trained_head(run).card.training["init_from"] is None


def test_a_second_training_in_a_folder_is_refused(
    trained: Path, tmp_path: Path, capsys: Capture
) -> None:
    run = tmp_path / "run"
    words = ["fit", "--config", str(trained / "train.yaml")]
    words += ["--trainer.default_root_dir", str(run)]
    with folder_lock(run, advice=""):
        error = refused(words, capsys)
        assert f"another process is writing to {run}" in error
        assert "--trainer.default_root_dir" in error
        assert list(run.iterdir()) == []
    train(words)
    with folder_lock(run, advice=""):  # given back
        pass


def test_a_run_s_folder_is_a_path(trained: Path, capsys: Capture) -> None:
    words = ["fit", "--config", str(trained / "train.yaml")]
    error = refused([*words, "--trainer.default_root_dir", "s3://bucket/run"], capsys)
    assert "s3://bucket/run" in error


def test_a_run_shorter_than_its_warm_up_says_so(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = ["fit", "--config", str(trained / "train.yaml")]
    words += ["--trainer.default_root_dir", str(tmp_path), "--trainer.max_steps", "-1"]
    with caplog.at_level(logging.WARNING):
        train([*words, "--max_images", "8", "--model.schedule.warmup_images", "400"])
    (message,) = [text for text in caplog.messages if "warm-up" in text]
    assert "ends after 8 images, within its warm-up of 400" in message
    assert "reaches 3.0% of" in message  # 0.01 + 0.99 * 8 / 400
    caplog.clear()
    train([*words, "--max_images", "8", "--model.schedule.warmup_images", "7"])
    assert not [text for text in caplog.messages if "warm-up" in text]
