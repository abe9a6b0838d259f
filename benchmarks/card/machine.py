"""On what a run was measured."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import torch

from regionspot.backbones import resolve_device

_QUERY = {
    "driver": "driver_version",
    "SM clock, now": "clocks.sm",
    "SM clock, highest": "clocks.max.sm",
    "memory clock, highest": "clocks.max.memory",
    "power limit": "power.limit",
}
_ROOT = Path(__file__).parents[2]


def describe_machine(name: str) -> dict[str, str | int | None]:
    """Return device, versions, driver, clocks, date and commit; None for what cannot be known.

    Args:
        name: Torch's name of the device, or auto.
    """
    device = resolve_device(name)
    facts: dict[str, str | int | None] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _answer(["git", "-C", str(_ROOT), "describe", "--always", "--dirty"]),
        "torch device": str(device),
        "device": _cpu_name(),
        "CPU": _cpu_name(),
        "CPU cores": len(os.sched_getaffinity(0)),
        "CPU threads of torch": torch.get_num_threads(),
        "torch": torch.__version__,
        "Python": platform.python_version(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts["device"] = properties.name
        facts["device memory, GiB"] = round(properties.total_memory / 2**30)
        facts["CUDA of torch"] = torch.version.cuda
        facts["cuDNN"] = torch.backends.cudnn.version()
        facts |= _told_by_driver(device.index or 0)
    return facts


def _told_by_driver(index: int) -> dict[str, str | None]:
    query = ["nvidia-smi", f"--id={index}", "--format=csv,noheader"]
    answer = _answer([*query, f"--query-gpu={','.join(_QUERY.values())}"])
    values = [] if answer is None else [value.strip() for value in answer.split(",")]
    if len(values) != len(_QUERY):
        return dict.fromkeys(_QUERY)
    return dict(zip(_QUERY, values, strict=True))


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _answer(command: list[str]) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603 - fixed commands
            command, capture_output=True, text=True, check=True, timeout=20
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
