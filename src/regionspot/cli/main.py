"""The ``regionspot`` command and the entry scripts.

A command's module is imported only when the command is called, as torch alone takes seconds to
import, and Ctrl-C is handled from the start. For the same reason, help is stored text
(`help_texts`), and mistyped options are found in it.
"""

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import cast

from regionspot.cli.help_texts import stored_help, stored_options, unlisted_option
from regionspot.cli.options import did_you_mean, no_option
from regionspot.cli.run import answer_signals
from regionspot.cli.shipped_configs import with_shipped_configs

COMMANDS = {
    "init": ("init:init", "write the configurations for your own images and annotations"),
    "cache": ("cache:make_cache", "run SAM and CLIP once over annotated images: a feature cache"),
    "cache plan": ("cache:plan_cache", ""),
    "cache verify": ("verify:verify_caches", ""),
    "cache repair": ("cache:repair_damage", ""),
    "cache stats": ("cache_care:show_stats", ""),
    "cache gc": ("cache_care:remove_garbage", ""),
    "cache merge": ("cache:merge_caches", ""),
    "fit": ("train:train", "train the fusion head on caches (train.py fit)"),
    "validate": ("train:train", "AP of a checkpoint on a validation cache (train.py validate)"),
    "evaluate": ("evaluate:evaluate", "AP of heads and of CLIP on crops, with a report"),
    "ablate": (
        "ablate:ablate",
        "train and evaluate the heads of whole tables, with several seeds",
    ),
    "report": ("report:report", "compare evaluations and trainings on one page"),
    "recognize": ("recognize:recognize", "name the regions of images"),
    "index": ("search:index_regions", "embed all regions of a cache by a head, to search them"),
    "search": ("search:search_regions", "find regions of a cache by words, or by a region"),
    "demo": ("demo:serve_demo", "serve a page that names any region of a picture"),
    "info": ("info:show_info", "say what a cache, head, checkpoint, run or evaluation is"),
    "export": ("export:export", "write a head, or all steps from pixels to names, as ONNX"),
    "verify": ("verify:verify_paths", "report damage in caches, heads and checkpoints"),
    "convert": ("convert:convert_head", "read or write the layout of the paper's released heads"),
    "convert-proposals": (
        "convert:convert_proposals",
        "convert Detectron2's boxes (.pkl, .pth) to COCO results, for use as proposals",
    ),
    "toy": ("toy:generate_toy_world", "generate the toy world: images and LVIS annotations"),
    "quickstart": ("quickstart:main", "run every step on a toy world, in minutes"),
    "completion": ("completion:print_completion", "print a script that completes commands on Tab"),
}
"""Command: module of `regionspot.cli` and function to call with the words after it; help line.

``cache --help`` describes the commands of two words.
"""
LIGHTNING = ("fit", "validate")
"""Commands that the function also gets as its first word, as LightningCLI needs them."""


def main(args: Sequence[str] | None = None) -> None:
    """Run one command.

    Args:
        args: The command and its options; by default those of the process, for which signal
            handlers are then installed.
    """
    if args is None:
        answer_signals()
    words = list(sys.argv[1:] if args is None else args)
    if not words or words[0] in {"-h", "--help"}:
        print(_usage())
        return
    if words[0] in {"-V", "--version"}:
        print(f"regionspot {version('regionspot')}")
        return
    if words[0] not in COMMANDS:
        hint = did_you_mean(words[0], COMMANDS)
        print(f"error: there is no command {words[0]!r}.{hint}\n\n{_usage()}", file=sys.stderr)
        raise SystemExit(2)
    length = 2 if " ".join(words[:2]) in COMMANDS else 1
    name = " ".join(words[:length])
    longer = [command for command in COMMANDS if command.startswith(f"{name} ")]
    if longer and len(words) > 1 and not words[1].startswith("-"):
        print(
            f"error: there is no command {' '.join(words[:2])!r}."
            f"{did_you_mean(' '.join(words[:2]), longer)} There are {', '.join(longer)}, and {name}"
            " itself, which takes only options.",
            file=sys.stderr,
        )
        raise SystemExit(2)
    if not {"-h", "--help"}.isdisjoint(words):
        print(stored_help(name), end="")
        raise SystemExit(0)
    words = with_shipped_configs(words)
    if name in LIGHTNING:
        function_of(name)(["--help" if word == "--help-all" else word for word in words])
        return
    mistyped = unlisted_option(name, words[length:])
    if mistyped is not None:
        message = no_option(mistyped, stored_options(name), command=f"regionspot {name}")
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(2)
    function_of(name)(words[length:])


def cache_features() -> None:
    """Run ``cache_features.py``: ``regionspot cache``."""
    answer_signals()
    main(["cache", *sys.argv[1:]])


def train() -> None:
    """Run ``train.py``: ``regionspot fit`` and ``regionspot validate``."""
    answer_signals()
    words = sys.argv[1:] or ["--help"]
    if words[0] in LIGHTNING:
        main(words)
    elif words[0] in {"-h", "--help"}:
        main(["fit", "--help"])
    else:
        function_of("fit")(words)


def evaluate() -> None:
    """Run ``evaluate.py``: ``regionspot evaluate``."""
    answer_signals()
    main(["evaluate", *sys.argv[1:]])


def function_of(command: str) -> Callable[[Sequence[str]], None]:
    """Import the function that runs a command."""
    module, _, name = COMMANDS[command][0].partition(":")
    function = getattr(importlib.import_module(f"regionspot.cli.{module}"), name)
    return cast("Callable[[Sequence[str]], None]", function)


def _usage() -> str:
    listed = {name: text for name, (_, text) in COMMANDS.items() if text}
    width = max(map(len, listed))
    lines = [f"  {name:<{width}}  {text}" for name, text in listed.items()]
    return "\n".join(
        ["usage: regionspot COMMAND [OPTIONS], with --help for the options", "", *lines]
    )
