"""Training on many processes is the training of one: real gloo processes against one process."""

import importlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from helpers.processes import Fork
from helpers.training import column
from regionspot.model import load_trained_head

MakeCache = Callable[..., Path]
WORKER = Path(__file__).with_name("ranks_worker.py")


@pytest.fixture(autouse=True)
def _few_threads_and_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.syspath_prepend(str(WORKER.parent))


def ddp(devices: int) -> list[str]:
    return ["--trainer.strategy", "ddp", "--trainer.devices", str(devices)]


def run_ranks(commands: list[list[str]], devices: int) -> None:
    """Run commands one after the other, in as many processes as they want devices."""
    worker = importlib.import_module("ranks_worker")
    with socket.create_server(("127.0.0.1", 0)) as free:
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    processes = [Fork(worker.run_all_in_fork, commands, rank, env=place) for rank in range(devices)]
    for code, _, errors in [process.ended() for process in processes]:
        assert code == 0, errors


def run_torchrun(
    folder: Path, commands: list[list[str]], launcher: Sequence[str]
) -> subprocess.CompletedProcess[str]:
    """Run commands one after the other in the processes that torchrun starts."""
    path = folder / "commands.json"
    path.write_text(json.dumps(commands), encoding="utf-8")
    return subprocess.run(
        [sys.executable, *launcher, str(WORKER), str(path)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def weights(run: Path) -> dict[str, Tensor]:
    """The trained tensors, but for the biases of keys.

    A softmax does not depend on these, so that their gradient is rounding error alone, of which
    AdamW makes whole steps.
    """
    trained = load_trained_head(run / "head")
    tensors = {**trained.head.state_dict(), **trained.classifier.state_dict()}
    for name, tensor in tensors.items():
        if name.endswith("in_proj_bias"):
            tensor.chunk(3)[1].zero_()
    return tensors


def assert_same_training(found: Path, wanted: Path) -> None:
    for name in ("train/loss", "train/grad_norm"):
        assert len(column(found, name)) > 0
        assert column(found, name) == pytest.approx(column(wanted, name), rel=1e-5), name
    found_weights = weights(found)
    for name, tensor in weights(wanted).items():
        torch.testing.assert_close(found_weights[name], tensor, atol=1e-5, rtol=1e-4, msg=name)


def variants(config: Path) -> dict[str, tuple[list[str], list[str]]]:
    """Name, options of many processes, and options of the one process to compare with."""
    fit = ["fit", "--config", str(config)]
    in_order = ["in-order", *fit]
    regions = ["--model.loss.normalization", "regions"]
    twice = ["--trainer.accumulate_grad_batches", "2"]
    average = [
        "--trainer.callbacks+=lightning.pytorch.callbacks.EMAWeightAveraging",
        *("--trainer.callbacks.decay", "0.75"),
    ]
    return {
        # 13 images in batches of 4: the last one has one image, for one rank.
        "paper": (in_order, in_order),
        "regions": ([*in_order, *regions], [*in_order, *regions]),
        # What is accumulated is one larger batch for "paper", a mean of means for "regions".
        "twice": ([*in_order, *twice], [*in_order, "--data.batch_size", "8"]),
        "twice regions": ([*in_order, *regions, *twice], [*in_order, *regions, *twice]),
        "random order": (fit, fit),
        "compiled": ([*in_order, "--model.compile", "true"], in_order),
        "average": ([*in_order, *average], [*in_order, *average]),
    }


def compare(
    folder: Path, config: Path, devices: int, names: Sequence[str], launcher: Sequence[str] = ()
) -> None:
    chosen = {name: variants(config)[name] for name in names}
    one_process = [
        [*words, "--trainer.default_root_dir", str(folder / f"{name} 1")]
        for name, (_, words) in chosen.items()
    ]
    many_processes = [
        [*words, *ddp(devices), "--trainer.default_root_dir", str(folder / f"{name} {devices}")]
        for name, (words, _) in chosen.items()
    ]
    if launcher:
        done = run_torchrun(folder, many_processes, launcher)
        assert done.returncode == 0, done.stderr
    else:
        run_ranks(many_processes, devices)
    run_here: Callable[[list[str]], None] = importlib.import_module("ranks_worker").run
    for words in one_process:
        run_here(words)
    for name in names:
        assert_same_training(folder / f"{name} {devices}", folder / f"{name} 1")


def test_two_processes_train_as_one_does(
    make_cache: MakeCache, train_config: Callable[..., Path], tmp_path: Path
) -> None:
    # Images 4 to 7, a whole batch, and 8, of the first rank, have no region.
    cache = make_cache(num_images=13, empty={4, 5, 6, 7, 8})
    config = train_config(cache, max_steps=6)
    compare(tmp_path, config, 2, ["paper", "regions"])


@pytest.mark.slow
def test_two_processes_accumulate_shuffle_compile_and_average_as_one_does(
    make_cache: MakeCache, train_config: Callable[..., Path], tmp_path: Path
) -> None:
    cache = make_cache(num_images=13, empty={4, 5, 6, 7, 8})
    config = train_config(cache, max_steps=6)
    names = ["twice", "twice regions", "random order", "compiled", "average"]
    compare(tmp_path, config, 2, names)


@pytest.mark.slow
def test_four_processes_of_torchrun_train_as_one_does(
    make_cache: MakeCache, train_config: Callable[..., Path], tmp_path: Path
) -> None:
    cache = make_cache(num_images=13, empty={4, 5, 6, 7, 8})
    config = train_config(cache, max_steps=6)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "4"]
    compare(tmp_path, config, 4, ["paper", "regions", "twice", "random order"], torchrun)
