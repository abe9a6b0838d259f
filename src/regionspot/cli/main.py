"""The ``regionspot`` command: one name for the commands that the entry scripts run.

``regionspot cache ARGS`` is ``python cache_features.py ARGS``, and so on. Each command is imported
only when it is asked for, since torch alone takes seconds.
"""

import importlib
import sys
from collections.abc import Sequence

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
    """Run one command; ``args`` default to the process's own."""
    words = list(sys.argv[1:] if args is None else args)
    if not words or words[0] in {"-h", "--help"}:
        print(_usage())
        return
    if words[0] not in _COMMANDS:
        print(f"error: there is no command {words[0]!r}.\n\n{_usage()}", file=sys.stderr)
        raise SystemExit(2)
    command = importlib.import_module(_COMMANDS[words[0]][0])
    command.main(words if words[0] in _LIGHTNING else words[1:])


def _usage() -> str:
    width = max(map(len, _COMMANDS))
    lines = [f"  {name:<{width}}  {help_text}" for name, (_, help_text) in _COMMANDS.items()]
    return "\n".join(
        ["usage: regionspot COMMAND [OPTIONS], with --help for the options", "", *lines]
    )
