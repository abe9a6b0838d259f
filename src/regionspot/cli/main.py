"""The ``regionspot`` command and the entry scripts: finds the function of a command and calls it.

Commands are imported only when they are called, since torch alone takes seconds to import: Ctrl-C
is answered from the start.
"""

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import cast

from regionspot.cli.run import answer_signals

_COMMANDS = {
    "cache": (
        "regionspot.cli.cache:make_cache",
        "run SAM and CLIP once over annotated images: a feature cache",
    ),
    "cache plan": ("regionspot.cli.cache:plan_cache", ""),
    "cache verify": ("regionspot.cli.verify:verify_caches", ""),
    "cache repair": ("regionspot.cli.cache:repair_damage", ""),
    "cache stats": ("regionspot.cli.cache_care:show_stats", ""),
    "cache gc": ("regionspot.cli.cache_care:remove_garbage", ""),
    "cache merge": ("regionspot.cli.cache:merge_caches", ""),
    "fit": ("regionspot.cli.train:train", "train the fusion head from caches (train.py fit)"),
    "validate": (
        "regionspot.cli.train:train",
        "AP of a checkpoint on a validation cache (train.py validate)",
    ),
    "evaluate": (
        "regionspot.cli.evaluate:evaluate",
        "AP APr APc APf of the head and of CLIP on crops; a report",
    ),
    "recognize": ("regionspot.cli.recognize:recognize", "name the regions of one image"),
    "verify": (
        "regionspot.cli.verify:verify_paths",
        "read every byte of caches, heads and checkpoints, and report damage",
    ),
    "convert": (
        "regionspot.cli.convert:convert_head",
        "read or write the layout of the paper's released heads",
    ),
    "convert-proposals": (
        "regionspot.cli.convert:convert_proposals",
        "Detectron2's boxes (.pkl, .pth) to COCO results, for use as proposals",
    ),
    "toy": (
        "regionspot.cli.toy:generate_toy_world",
        "generate the toy world: images and LVIS annotations",
    ),
    "quickstart": (
        "regionspot.cli.quickstart:main",
        "all steps on an embedded toy world, in minutes",
    ),
}
"""Command: the function that gets the words after it, and one line of help.

``cache --help`` describes the commands of two words.
"""
_LIGHTNING = ("fit", "validate")
"""Commands that are also the first word of their function, which is ``train.py``'s."""


def main(args: Sequence[str] | None = None) -> None:
    """Run one command.

    Args:
        args: Its words; by default those of the process, which then answers signals as long as it
            lives.
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
    length = 2 if " ".join(words[:2]) in _COMMANDS else 1
    name = " ".join(words[:length])
    longer = [command for command in _COMMANDS if command.startswith(f"{name} ")]
    if longer and len(words) > 1 and not words[1].startswith("-"):
        print(
            f"error: there is no command {' '.join(words[:2])!r}; there are {', '.join(longer)},"
            f" and {name} itself, which takes options only.",
            file=sys.stderr,
        )
        raise SystemExit(2)
    _function(name)(words if name in _LIGHTNING else words[length:])


def cache_features() -> None:
    """Run ``cache_features.py``, which is ``regionspot cache``."""
    answer_signals()
    main(["cache", *sys.argv[1:]])


def train() -> None:
    """Run ``train.py``, whose ``fit`` and ``validate`` are those of ``regionspot``."""
    answer_signals()
    _function("fit")(sys.argv[1:])


def evaluate() -> None:
    """Run ``evaluate.py``, which is ``regionspot evaluate``."""
    answer_signals()
    main(["evaluate", *sys.argv[1:]])


def _function(command: str) -> Callable[[Sequence[str]], None]:
    module, _, name = _COMMANDS[command][0].partition(":")
    return cast("Callable[[Sequence[str]], None]", getattr(importlib.import_module(module), name))


def _usage() -> str:
    listed = {name: text for name, (_, text) in _COMMANDS.items() if text}
    width = max(map(len, listed))
    lines = [f"  {name:<{width}}  {text}" for name, text in listed.items()]
    return "\n".join(
        ["usage: regionspot COMMAND [OPTIONS], with --help for the options", "", *lines]
    )
