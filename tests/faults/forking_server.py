"""Runs the command again and again in forks of one process that has loaded everything already.

Started by test_stopped_runs.py, with the names of modules to import beside those of ``regionspot
cache``. Each line on its standard input is a JSON object with

    words      what is typed after ``regionspot``
    folder     an existing folder for what the run prints
    is_bound   whether permission bits bind the run even if root started this
    before     the step before which the run kills itself (see `watch_steps`); null for none, and
               not to watch its steps
    after_s    when the run is sent a signal, in seconds after it began; null for never
    signal     which one

Each line on its standard output says what became of it: ``code`` (negative: the signal that ended
the run), ``seconds``, and ``steps``, all that were seen.
"""

import ctypes
import importlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

import open_clip  # noqa: F401 - what runs import late is loaded before they are forked
import segment_anything  # noqa: F401
import torch

import regionspot.cli.cache
import regionspot.extraction.run  # noqa: F401
from regionspot.cli.main import main
from regionspot.cli.run import answer_signals

PATIENCE_S = 120


def watch_steps(steps: int, before: str) -> None:
    """Write down each step of the run right before the system call, or kill the run there.

    Steps are ``open``, ``fsync`` and ``rename`` with the name of a temporary file, ``fsync folder``
    with the name of the file that was renamed in it, and ``read`` with the name of an image. Hooks
    of the interpreter see them: nothing is left to timing, and nothing is replaced.
    """
    renamed_or_opened = ""

    def step(name: str) -> None:
        os.write(steps, f"{name}\n".encode())
        if name == before:
            os.kill(os.getpid(), signal.SIGKILL)

    def hear_audit(event: str, args: tuple[Any, ...]) -> None:
        nonlocal renamed_or_opened
        if event not in {"open", "os.rename"}:
            return
        name = Path(os.fsdecode(args[0])).name if isinstance(args[0], (str, bytes)) else ""
        if event == "open" and name.endswith(".png"):
            step(f"read {name}")
        elif name.endswith(".tmp"):
            action = "open" if event == "open" else "rename"
            step(f"{action} {name}")
            renamed_or_opened = name if action == "open" else f"folder {name.removesuffix('.tmp')}"

    def hear_call(_frame: FrameType, event: str, function: object) -> None:
        if event == "c_call" and function is os.fsync:
            step(f"fsync {renamed_or_opened}")

    sys.addaudithook(hear_audit)
    threading.setprofile(hear_call)
    sys.setprofile(hear_call)


def give_up_capabilities() -> None:
    """Make permission bits binding for root, who may read and write all by a capability."""
    version_3, this_process = 0x20080522, 0
    header = (ctypes.c_uint32 * 2)(version_3, this_process)
    if ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)()):
        raise OSError("capset failed")


def run(job: dict[str, Any], ready: int) -> None:
    """Be the run, from a byte written to ``ready`` on; never returns."""
    code: object = 1
    try:
        folder = Path(job["folder"])
        for descriptor, name in ((1, "out"), (2, "err"), (3, "steps")):
            os.dup2(os.open(folder / name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), descriptor)
        if job["is_bound"]:
            give_up_capabilities()
        if job["before"] is not None:
            watch_steps(3, job["before"])
        answer_signals()  # as the command does first
        os.write(ready, b"!")
        sys.argv = ["regionspot", *job["words"]]
        main()
        code = 0
    except SystemExit as stop:
        code = stop.code
    except BaseException:  # noqa: BLE001 - whatever it is, the test is told
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


def end_of(process: int, job: dict[str, Any], ready: int) -> dict[str, Any]:
    """Wait for a run, send the signal when it is time, and say how it ended."""
    os.read(ready, 1)
    start = time.perf_counter()
    if job["after_s"] is not None:
        time.sleep(job["after_s"])
        os.kill(process, job["signal"])
    while not (ended := os.waitpid(process, os.WNOHANG))[0]:
        time.sleep(0.001)
        if time.perf_counter() - start > PATIENCE_S:
            os.kill(process, signal.SIGKILL)
    steps = (Path(job["folder"]) / "steps").read_text(encoding="utf-8").splitlines()
    seconds = time.perf_counter() - start
    return {"code": os.waitstatus_to_exitcode(ended[1]), "seconds": seconds, "steps": steps}


if __name__ == "__main__":
    for name in sys.argv[1:]:
        importlib.import_module(name)
    torch.set_num_threads(1)  # a fork has only the thread that forked
    for line in sys.stdin:
        order = json.loads(line)
        read_end, write_end = os.pipe()
        if (child := os.fork()) == 0:
            run(order, write_end)
        sys.stdout.write(json.dumps(end_of(child, order, read_end)) + "\n")
        sys.stdout.flush()
        os.close(read_end)
        os.close(write_end)
