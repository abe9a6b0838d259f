"""``--executor ray`` on a real cluster of two nodes: whatever dies, the bytes are as of one run."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster
from safetensors.torch import load_file, save_file

from helpers.files import tree
from helpers.processes import fork_regionspot, start_regionspot
from helpers.worlds import cache_options, write_world
from regionspot.cache import try_lock_shard, verify_cache

ROOT = Path(__file__).parents[2]
TINY = ROOT / "src/regionspot/backbones/tiny"
NUM_IMAGES, IMAGES_PER_SHARD, NUM_SHARDS = 96, 12, 8
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
TIMEOUT_S = 600  # for what hangs: a busy machine takes minutes


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head and a second node, each with room for one worker."""
    folder = tempfile.mkdtemp(prefix="ray")  # short: the paths of sockets are limited
    before = os.environ.copy()
    os.environ.update(environment())
    # Where Ray notes the address of the cluster: it does not make /tmp/ray for that itself.
    os.environ["RAY_TMPDIR"] = folder
    Path(folder, "ray").mkdir()
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "temp_dir": folder})
    try:
        cluster.add_node(**NODE)
        yield cluster
    finally:
        cluster.shutdown()
        os.environ.clear()
        os.environ.update(before)
        wait_until(lambda: not processes_of(folder), "all processes of Ray ended")
        shutil.rmtree(folder)


def environment() -> dict[str, str]:
    """One thread everywhere, and workers that import this checkout."""
    own = {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT / "src"),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    return {**os.environ, **own}


def processes_of(folder: str) -> list[Path]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
        except OSError:  # it has just ended
            continue
        if folder.encode() in command:
            found.append(process)
    return found


def wait_until(is_so: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not is_so():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.005)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"), NUM_IMAGES)


def start(
    world: Path, cache: Path, cluster: Cluster | None, *options: str
) -> "subprocess.Popen[str]":
    """Start the command as in a shell in the world's folder, with relative paths."""
    words = cache_options(
        "own.csv",
        ".",
        os.path.relpath(cache, world),
        images_per_shard=IMAGES_PER_SHARD,
        batch_size=4,
    )
    if cluster is not None:
        words += ["--executor", "ray", "--ray.address", cluster.address]
    return start_regionspot(["cache", *words, *options], cwd=world, env=environment())


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=TIMEOUT_S)
    return process.returncode, output, errors


@pytest.fixture(scope="module")
def finished(world: Path) -> dict[str, bytes]:
    """What one process without Ray writes."""
    options = cache_options(
        world / "own.csv", world, world / "whole", images_per_shard=IMAGES_PER_SHARD, batch_size=4
    )
    code, _, errors = fork_regionspot(["cache", *options]).ended()
    assert code == 0, errors
    return tree(world / "whole")


def writer_of(cache: Path, shard: int) -> int | None:
    """The process that holds a shard's lock, as the kernel says; None if nobody does."""
    try:
        inode = (cache / "shards" / f"{shard:06d}.lock").stat().st_ino
    except FileNotFoundError:
        return None
    for line in Path("/proc/locks").read_text().splitlines():
        _, kind, _, _, process, place, *_ = line.replace("->", "").split()
        if kind == "FLOCK" and int(place.rsplit(":", 1)[1]) == inode:
            return int(process)
    return None


def kill_writer_of(cache: Path, shard: int) -> None:
    killed: list[int] = []

    def kill() -> bool:
        process = writer_of(cache, shard)
        if process is not None:
            os.kill(process, signal.SIGKILL)
            killed.append(process)
        return process is not None

    wait_until(kill, f"a worker is at shard {shard}")
    wait_until(lambda: writer_of(cache, shard) != killed[0], "its lock is free")


def num_done(cache: Path) -> int:
    return len(list(cache.glob("shards/*.json")))


def test_two_nodes_write_the_bytes_of_one_process(
    cluster: Cluster, world: Path, finished: dict[str, bytes], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    code, output, errors = ended(start(world, cache, cluster))
    assert code == 0, errors
    assert "96 images, 96 regions, 8 shards" in output
    assert "96 images in" in output
    assert "asking Ray for 2 workers of 1 CPUs, 0 GPUs" in errors
    assert len({line.split("process ")[1] for line in errors.splitlines() if "ready" in line}) == 2
    assert sum("12 images, 0 left out" in line for line in errors.splitlines()) == NUM_SHARDS
    assert verify_cache(cache) == []
    assert tree(cache) == finished


@pytest.mark.slow
def test_workers_take_over_what_another_cache_has(
    cluster: Cluster, world: Path, finished: dict[str, bytes], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    code, output, errors = ended(start(world, cache, cluster, "--reuse", "whole"))
    assert code == 0, errors
    assert "reused: 96 feature maps, 96 position tokens" in output
    tars = [name for name in finished if name.endswith(".tar")]
    assert {name: tree(cache)[name] for name in tars} == {name: finished[name] for name in tars}


@pytest.mark.slow
def test_what_a_worker_raises_on_purpose_ends_the_run_with_its_message(
    cluster: Cluster, world: Path, tmp_path: Path
) -> None:
    broken = load_file(TINY / "clip.safetensors")
    broken["visual.class_embedding"].fill_(float("nan"))
    save_file(broken, tmp_path / "nan.safetensors")
    process = start(
        world,
        tmp_path / "cache",
        cluster,
        "--models.clip_weights",
        str(tmp_path / "nan.safetensors"),
    )
    code, _, errors = ended(process)
    assert code == 2, errors
    assert "error: CLIP's output for image" in errors
    assert "stopped by " in errors
    assert "Traceback" not in errors
    assert "lost" not in errors


@pytest.mark.slow
def test_a_killed_worker_is_replaced(
    cluster: Cluster, world: Path, finished: dict[str, bytes], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    process = start(world, cache, cluster)
    kill_writer_of(cache, 1)
    wait_until(lambda: num_done(cache) >= 3, "more shards are done")
    kill_writer_of(cache, 6)
    code, _, errors = ended(process)
    assert code == 0, errors
    assert "was lost at shard 2" in errors
    assert "was lost at shard 7" in errors
    assert tree(cache) == finished


@pytest.mark.slow
def test_when_a_node_is_lost_the_other_does_the_rest(
    cluster: Cluster, world: Path, finished: dict[str, bytes], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    node = cluster.add_node(**NODE)
    process = start(world, cache, cluster)
    wait_until(lambda: num_done(cache) >= 2, "two shards are done")
    cluster.remove_node(node, allow_graceful=False)
    code, _, errors = ended(process)
    assert code == 0, errors
    assert "asking Ray for 3 workers" in errors
    assert "was lost" in errors
    assert tree(cache) == finished


@pytest.mark.slow
def test_a_shard_that_kills_its_workers_ends_the_run_after_all_others_are_done(
    cluster: Cluster, world: Path, finished: dict[str, bytes], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    process = start(world, cache, cluster)
    for _ in range(3):
        kill_writer_of(cache, 3)
    code, _, errors = ended(process)
    assert code == 2, errors
    assert "error: 3 workers died at shard 4 of 8" in errors
    assert "Traceback" not in errors
    assert num_done(cache) == NUM_SHARDS - 1
    # The same command without Ray, as the message says.
    code, _, errors = ended(start(world, cache, None))
    assert code == 0, errors
    assert tree(cache) == finished


@pytest.mark.slow
def test_a_worker_that_still_writes_is_waited_for(
    cluster: Cluster, world: Path, finished: dict[str, bytes], tmp_path: Path
) -> None:
    """As by a machine that lost its network, but not its disk: here this process is the zombie."""
    cache, missing = tmp_path / "cache", ("shards/000002.tar", "shards/000002.json", "index.h5")
    for name, content in finished.items():
        if name not in missing:
            (cache / name).parent.mkdir(parents=True, exist_ok=True)
            (cache / name).write_bytes(content)
    lock = try_lock_shard(cache, 2)
    assert lock is not None
    process = start(world, cache, cluster)
    assert process.stderr is not None
    assert any("shard 3: another process is writing it" in line for line in process.stderr)
    assert not set(missing) & set(tree(cache))
    lock.release(is_complete=False)
    code, output, errors = ended(process)
    assert code == 0, errors
    assert "12 images in" in output
    assert tree(cache) == finished


@pytest.mark.slow
def test_unusable_images_of_all_workers_count_together(
    cluster: Cluster, world: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "world"
    shutil.copytree(world, broken)
    for shard in range(NUM_SHARDS):
        (broken / f"{shard * IMAGES_PER_SHARD}.png").write_bytes(b"no image")
    cache = tmp_path / "cache"
    code, _, errors = ended(start(broken, cache, cluster, "--max_quarantined_share", "0.07"))
    assert code == 2, errors
    assert "error: 7 of 96 images cannot be used" in errors
    assert errors.count("left out: ") == 7
    code, output, errors = ended(start(broken, cache, cluster, "--max_quarantined_share", "0.09"))
    assert code == 0, errors
    assert "left out: 8 images" in output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "message"),
    [
        (signal.SIGTERM, 143, "terminated: finished shards are safe; run the same command again"),
        (signal.SIGINT, 130, "interrupted"),
    ],
)
def test_a_stopped_run_ends_its_workers_and_the_same_command_goes_on(
    number: int,
    code: int,
    message: str,
    cluster: Cluster,
    world: Path,
    finished: dict[str, bytes],
    tmp_path: Path,
) -> None:
    cache = tmp_path / "cache"
    process = start(world, cache, cluster)
    wait_until(lambda: num_done(cache) >= 2, "two shards are done")
    process.send_signal(number)
    found, _, errors = ended(process)
    assert found == code, errors
    assert errors.splitlines()[-1].startswith(message)
    assert "Traceback" not in errors
    wait_until(
        lambda: not any(writer_of(cache, shard) for shard in range(NUM_SHARDS)), "workers ended"
    )
    assert num_done(cache) < NUM_SHARDS
    code, _, errors = ended(start(world, cache, cluster))
    assert code == 0, errors
    assert tree(cache) == finished
