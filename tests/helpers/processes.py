"""``regionspot`` in processes of its own: started, and killed at a chosen place."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

START = "from regionspot.cli.main import main; main()"

KILLER = """
import json, os, signal, sys
import torch
from regionspot.cli.main import main

words, numbers, modules = json.loads(sys.argv[1])
for module in modules:
    __import__(module)
for number in numbers:
    if (process := os.fork()) == 0:
        seen = 0

        def hook(name, args):
            global seen
            if name == "os.rename" and str(args[0]).endswith(".tmp"):
                seen += 1
                if seen == number:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        torch.set_num_threads(1)
        main(words)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
"""


def start_regionspot(
    words: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> "subprocess.Popen[str]":
    """Start ``regionspot`` with one thread; what it prints is there to be read."""
    return subprocess.Popen(
        [sys.executable, "-c", START, *words],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
    )


def kill_at_renames(
    words: Sequence[str], numbers: Sequence[int], *, modules: Sequence[str]
) -> "subprocess.CompletedProcess[str]":
    """Run a command once for each number, killed before the so manieth file gets its final name.

    The runs are forks of one process, which imports ``modules`` once, and prints how each ended.
    """
    return subprocess.run(
        [sys.executable, "-c", KILLER, json.dumps([words, numbers, modules])],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
