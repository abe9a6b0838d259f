"""Parses the options of a command from the command line and from YAML files.

An option may name a class (``class_path``, or ``--trainer.callbacks+=my_package.MyCallback``).
jsonargparse then imports and calls it, which runs code: only code of RegionSpot and, in training,
of Lightning, unless ``--allow_code`` allows more. jsonargparse (4.53) checks the name before
importing anything, and again where the object was defined, so that names such as
``lightning.pytorch.os.system`` are refused as well.
"""

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from difflib import get_close_matches
from itertools import chain
from typing import Any, Final, NoReturn, TypeVar

import yaml
from jsonargparse import ArgumentParser, get_loader, set_loader, set_parsing_settings
from typing_extensions import override

from regionspot.core.errors import ConfigError, RegionSpotError

T = TypeVar("T")

ALLOW_CODE: Final = "--allow_code"
HEAD_HELP: Final = "Folder of a run or a trained head; a .ckpt; or hf://owner/name on the Hub."
"""Help of an option that takes a trained head."""
VOCABULARY_HELP: Final = (
    "Names separated by commas, or a file with one name per line; by default the names that the"
    " head was trained on."
)
"""Help of an option that `cli.values.parse_vocabulary` parses."""
TEMPLATES_HELP: Final = (
    "Template set: ensemble81, ensemble80, single or none; by default that of training."
)
"""Help of an option that takes a template set."""
_ALLOWED: Final = ("lightning", "regionspot")

_NODES = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MAX_NODES = 100_000
_MAX_DEPTH = 100


_UNKNOWN_OPTION = re.compile(r"[Uu]nrecognized arguments: (--?[\w.+-]+)")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a question with the most similar known words; empty if none is similar."""
    similar = get_close_matches(word, list(known), n=3, cutoff=0.7)
    return f" Did you mean {' or '.join(similar)}?" if similar else ""


def unknown_option(message: str, parser: ArgumentParser) -> str | None:
    """Return a short message for jsonargparse's error about an unknown option; None for others."""
    found = _UNKNOWN_OPTION.search(message)
    if found is None:
        return None
    known = [name for action in parser._actions for name in action.option_strings]  # noqa: SLF001
    return no_option(found[1], known, command=parser.prog)


def no_option(option: str, known: Iterable[str], *, command: str) -> str:
    """Return the message about an unknown option of a command."""
    similar = did_you_mean(option, known)
    return f"there is no option {option}.{similar} {command} --help lists all options."


class CommandParser(ArgumentParser):
    """Names similar options in the error about an unknown one."""

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the error, without the long usage for an unknown option, and exit with 2."""
        short = unknown_option(message, self)
        if short is None:
            super().error(message, ex)
        print(f"error: {short}", file=sys.stderr)
        raise SystemExit(2)


def parse_options(
    config_class: type[T], words: Sequence[str], *, prog: str, about: str | None
) -> T:
    """Parse the command line, and the file that ``--config`` names, into a configuration.

    Args:
        config_class: A dataclass; the docstrings of its fields become the help.
        words: The words after the command.
        prog: Name of the command in its help.
        about: What the command does, for its help.

    Raises:
        ConfigError: The class refuses an option, or the file is not text.
    """
    prepare_parsing()
    parser = CommandParser(prog=prog, description=about)
    parser.add_argument("--config", action="config", help="YAML file with options.")
    parser.add_class_arguments(config_class)
    with readable_files():
        parsed = parser.parse_args(list(words))
    try:
        options = vars(parser.instantiate(parsed))
    except ValueError as error:
        # jsonargparse wraps the errors of nested classes that are optional.
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, RegionSpotError):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        raise cause from None
    names = [field.name for field in fields(config_class)]  # type: ignore[arg-type]
    return config_class(**{name: options[name] for name in names})


def prepare_parsing() -> None:
    """Make jsonargparse use docstrings as help, import only our code, and limit the size of YAML.

    Training also allows Lightning's code and what ``--allow_code`` names (`code_limited_to`).
    YAML aliases can nest: ten lists, each of which holds the one before it ten times, take a few
    hundred bytes and expand to ten billion values.
    """
    set_parsing_settings(
        docstring_parse_attribute_docstrings=True,
        import_path_denylist=["*"],
        import_path_allowlist=["regionspot"],
        # By default {class_path: ...} may replace the fields of any group of options.
        instantiate_subclass_spec_in_any=False,
    )
    load = get_loader("yaml")
    if not isinstance(load, _Bounded):
        set_loader("yaml", _Bounded(load), exceptions=(yaml.YAMLError,))


@contextmanager
def readable_files() -> Iterator[None]:
    """Raise a `ConfigError` for a configuration file that is not UTF-8 text."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"the configuration file is not UTF-8 text: it has {error.object[:16]!r} near byte"
            f" {error.start}. Give a YAML file with --config."
        ) from error


def take_allow_code(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Remove ``--allow_code`` from a command line, before any configuration is read.

    Args:
        words: The command line.

    Returns:
        The remaining words, and the modules to allow in addition to RegionSpot and Lightning.

    Raises:
        ConfigError: A name is not the dotted name of a module.
    """
    rest: list[str] = []
    names: list[str] = []
    remaining = iter(words)
    for word in remaining:
        option, equals, value = word.partition("=")
        if option != ALLOW_CODE:
            rest.append(word)
            continue
        names += (value if equals else next(remaining, "")).strip("[]").split(",")
    names = [name.strip() for name in names]
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")) or name == "jsonargparse":
            raise ConfigError(
                f"{ALLOW_CODE} is given {name!r}; wanted packages or modules separated by commas,"
                " such as my_package or my_package.callbacks."
            )
    return rest, [name for name in names if name.split(".")[0] not in _ALLOWED]


@contextmanager
def code_limited_to(allowed: Sequence[str] = ()) -> Iterator[None]:
    """In this block, options may name only code of RegionSpot, Lightning and ``allowed``."""
    set_parsing_settings(
        import_path_denylist=["*"],
        import_path_allowlist=[*_ALLOWED, *allowed],
        # Where any value is accepted, {class_path: ...} is just a value.
        instantiate_subclass_spec_in_any=False,
    )
    try:
        yield
    finally:
        set_parsing_settings(import_path_denylist=list(allowed))


class _RefusedError(yaml.YAMLError):
    """A refused value; jsonargparse expects YAMLError from its loaders."""


class _Bounded:
    """Wraps a YAML loader, and limits the number of values with aliases expanded."""

    def __init__(self, load: Callable[[str], Any]) -> None:
        self._load = load

    def __call__(self, text: str) -> Any:
        # Before values are constructed, as merging mappings (<<) expands them.
        nodes = yaml.compose(text, Loader=_NODES)
        num_nodes = 1 if nodes is None else _num_nodes(nodes, {}, depth=0)
        if num_nodes > _MAX_NODES:
            raise _RefusedError(
                f"with aliases expanded there are {num_nodes:.3g} values; wanted at most"
                f" {_MAX_NODES:,}. Write out values instead of using *aliases to lists of lists."
            )
        try:
            return self._load(text)
        except ValueError as error:  # a number of thousands of digits
            raise _RefusedError(f"a value cannot be read: {error}") from error


def _num_nodes(node: yaml.Node, known: dict[int, int], *, depth: int) -> int:
    """Count the values in a node with aliases expanded, visiting each node once."""
    if depth > _MAX_DEPTH:
        raise _RefusedError(
            f"lists or mappings are nested more than {_MAX_DEPTH} deep, or a value contains itself."
            " Use fewer levels."
        )
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        parts = chain(*node.value) if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] = 1 + sum(_num_nodes(part, known, depth=depth + 1) for part in parts)
    return known[id(node)]
