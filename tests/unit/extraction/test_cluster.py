"""How many workers fit on a cluster, and what is told when there is none to be had."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest

from helpers.processes import Fork
from regionspot.core.errors import ConfigError, MissingExtraError
from regionspot.extraction import AnnotationsConfig, CacheConfig, cache_features, repair_cache
from regionspot.extraction.config import RayConfig
from regionspot.extraction.ray_executor import WorkerShape

GPU_MACHINE = {"CPU": 64.0, "GPU": 8.0, "memory": 1e11}
HEAD = {"CPU": 0.0, "node:__internal_head__": 1.0}

CONFIG = CacheConfig(
    output_dir="out",
    annotations=AnnotationsConfig(format="csv", path="own.csv", images_dir="."),
    executor="ray",
)


@pytest.mark.parametrize(
    ("options", "machines", "device", "wanted"),
    [
        # A worker a GPU, with the cores that belong to it.
        ({}, [GPU_MACHINE, GPU_MACHINE], "auto", (16, 8, 1)),
        ({}, [HEAD, GPU_MACHINE], "cuda", (8, 8, 1)),
        ({}, [GPU_MACHINE, {"CPU": 16.0, "GPU": 4.0}], "auto", (12, 4, 1)),
        # Machines without a GPU are not used where others have one, unless asked for.
        ({}, [{"CPU": 32.0}, GPU_MACHINE], "auto", (8, 8, 1)),
        ({}, [{"CPU": 32.0}, GPU_MACHINE], "cpu", (3, 32, 0)),
        ({"gpus_per_worker": 0}, [{"CPU": 32.0}, GPU_MACHINE], "auto", (3, 32, 0)),
        # Without GPUs: one worker for the smallest machine, as many as fit on the larger ones.
        ({}, [{"CPU": 2.0}], "auto", (1, 2, 0)),
        ({}, [{"CPU": 4.0}, {"CPU": 10.0}], "auto", (3, 4, 0)),
        ({"cpus_per_worker": 3}, [{"CPU": 4.0}, {"CPU": 10.0}], "auto", (4, 3, 0)),
        ({"gpus_per_worker": 0.5}, [GPU_MACHINE], "auto", (16, 4, 0.5)),
        ({"gpus_per_worker": 2}, [GPU_MACHINE], "auto", (4, 16, 2)),
        ({"cpus_per_worker": 20}, [GPU_MACHINE], "auto", (3, 20, 1)),
        # More than fit now: the others wait for room.
        ({"num_workers": 5}, [{"CPU": 2.0}], "auto", (5, 2, 0)),
        ({"num_workers": 5}, [GPU_MACHINE], "auto", (5, 8, 1)),
    ],
)
def test_a_worker_is_as_large_as_asked_or_as_a_device_allows(
    options: dict[str, float],
    machines: list[dict[str, float]],
    device: str,
    wanted: tuple[int, int, float],
) -> None:
    shape = WorkerShape.fitting(RayConfig(**options), machines, device=device)  # type: ignore[arg-type]
    assert (shape.num_workers, shape.cpus, shape.gpus) == wanted


@pytest.mark.parametrize(
    ("options", "machines"),
    [
        ({"cpus_per_worker": 5}, [{"CPU": 4.0}, {"CPU": 4.0}]),
        ({"gpus_per_worker": 1}, [{"CPU": 4.0}]),
        ({}, [HEAD]),
    ],
)
def test_a_worker_that_fits_nowhere_is_refused(
    options: dict[str, float], machines: list[dict[str, float]]
) -> None:
    with pytest.raises(ConfigError, match=r"they have [04] CPUs, 0 GPUs.*--ray.cpus_per_worker"):
        WorkerShape.fitting(RayConfig(**options), machines, device="auto")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RayConfig(address="ray://head:10001"), "wanted auto, or host:port"),
        (lambda: RayConfig(address="head"), "such as 10.0.0.1:6379"),
        (lambda: RayConfig(num_workers=0), r"--ray.num_workers is 0; wanted 1 or more"),
        (lambda: RayConfig(cpus_per_worker=0), r"--ray.cpus_per_worker is 0; wanted 1 or more"),
        (lambda: RayConfig(gpus_per_worker=-1), r"--ray.gpus_per_worker is -1; wanted 0 or more"),
        (lambda: replace(CONFIG, part="1/2"), "Leave one of the two out"),
        (lambda: replace(CONFIG, device="cuda:1"), "Ray chooses each worker's GPU"),
        (lambda: replace(CONFIG, output_dir="s3://b/c"), "all machines .* share.*its --part"),
        (lambda: repair_cache(CONFIG), "a cache is repaired in one process: leave it out"),
    ],
)
def test_options_that_cannot_work_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("address", ["auto", "127.0.0.1:1"])  # port 1: nobody listens there
def test_without_a_cluster_both_ways_out_are_named(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    # A cluster of somebody else is not ours: Ray looks for the last one, and for processes of any.
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", Mock(return_value=set()))
    config = replace(CONFIG, output_dir=str(tmp_path / "out"), ray=RayConfig(address=address))
    with pytest.raises(ConfigError, match=r"no Ray cluster was found.*ray start --head.*--part"):
        cache_features(config)
    assert not (tmp_path / "out").exists()


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("regionspot.extraction.ray_executor", "regionspot.extraction.ray_executor"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)  # how Python marks a module as not to be had
    with pytest.raises(MissingExtraError, match=r'pip install "regionspot\[ray\]"'):
        cache_features(CONFIG)


def test_ray_is_not_imported_unless_it_is_asked_for() -> None:
    script = "import sys; print({'ray', 'regionspot.cli.cache'} & set(sys.modules))"
    code, output, errors = Fork(exec, script, {}).ended()
    assert (code, output) == (0, "{'regionspot.cli.cache'}\n"), errors
