"""The ``regionspot`` command: one name for the commands that the entry scripts run.

``regionspot cache ARGS`` is ``python cache_features.py ARGS``, and so on. Each command is imported
only when it is asked for, since torch alone takes seconds: Ctrl-C is answered from the start.
"""

import importlib
import sys
from collections.abc import Sequence

from regionspot.cli.signals import answer_signals

_COMMANDS = {
    "cache": (
        "regionspot.cli.cache",
        "run SAM and CLIP once over annotated images: a feature cache",
    ),
    "fit": ("regionspot.cli.train", "train the fusion head from caches (train.py fit)"),
    "validate": (
        "regionspot.cli.train",
        "AP of a checkpoint on a validation cache (train.py validate)",
    ),
    "evaluate": (
        "regionspot.cli.evaluate",
        "AP APr APc APf of the head and of CLIP on crops; a report",
    ),
    "recognize": ("regionspot.cli.recognize", "name the regions of one image"),
    "verify": (
        "regionspot.cli.verify",
        "read every byte of caches, heads and checkpoints, and name all damage",
    ),
    "convert": ("regionspot.cli.convert", "read or write the layout of the paper's released heads"),
    "convert-proposals": (
        "regionspot.cli.convert_proposals",
        "Detectron2's boxes (.pkl, .pth) into COCO results, to go in as proposals",
    ),
    "toy": ("regionspot.cli.toy", "generate the toy world: images and LVIS annotations"),
    "quickstart": (
        "regionspot.cli.quickstart",
        "the whole way on an embedded toy world, in minutes",
    ),
}
_LIGHTNING = ("fit", "validate")


def main(args: Sequence[str] | None = None) -> None:
    """Run one command.

    Args:
        args: Its words; the process's own by default. The process is the command's then, which
            answers signals as long as it lives.
    """
    if args is None:
        answer_signals()
    words = list(sys.argv[1:] if args is None else args)
    if not words or words[0] in {"-h", "--help"}:
        print(_usage())
        return
    if words[0] not in _COMMANDS:
        print(f"error: there is no command {words[0]!r}.\n\n{_usage()}", file=sys.stderr)
        raise SystemExit(2)
    module, _ = _COMMANDS[words[0]]
    _run(module, words if words[0] in _LIGHTNING else words[1:])


def cache_features() -> None:
    """Be ``cache_features.py``."""
    _be_script("regionspot.cli.cache")


def train() -> None:
    """Be ``train.py``."""
    _be_script("regionspot.cli.train")


def evaluate() -> None:
    """Be ``evaluate.py``."""
    _be_script("regionspot.cli.evaluate")


def _be_script(module: str) -> None:
    answer_signals()
    _run(module, sys.argv[1:])


def _run(module: str, words: Sequence[str]) -> None:
    importlib.import_module(module).main(words)


def _usage() -> str:
    width = max(map(len, _COMMANDS))
    lines = [f"  {name:<{width}}  {help_text}" for name, (_, help_text) in _COMMANDS.items()]
    return "\n".join(
        ["usage: regionspot COMMAND [OPTIONS], with --help for the options", "", *lines]
    )
