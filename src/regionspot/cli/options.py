"""From the words of a command line to a command's options.

Options are the fields of the command's configuration class; their values come from the command line
and from YAML files. Naming a class in an option (``class_path``, or short as in
``--trainer.callbacks+=my_package.MyCallback``) makes jsonargparse import its module and call it,
which runs code: by default only code of RegionSpot, and in training of Lightning. The check is
jsonargparse's (4.53): before anything is imported, and once more for where the thing found was
defined, so that ``lightning.pytorch.os.system`` does not help.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from itertools import chain
from typing import Any, Final, TypeVar

import yaml
from jsonargparse import ArgumentParser, get_loader, set_loader, set_parsing_settings

from regionspot.core.errors import ConfigError, RegionSpotError

T = TypeVar("T")

ALLOW_CODE: Final = "--allow_code"
_ALLOWED: Final = ("lightning", "regionspot")

_NODES = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MAX_NODES = 100_000
_MAX_DEPTH = 100


def parse_options(
    config_class: type[T], words: Sequence[str], *, prog: str, about: str | None
) -> T:
    """Read the options of the command line and of the file that ``--config`` names.

    Args:
        config_class: A dataclass; the docstrings of its fields become the help.
        words: The words after the command.
        prog: Name of the command in its help.
        about: What the command does, for its help.

    Raises:
        ConfigError: An option cannot work (raised by the class itself), or the file is not text.
    """
    prepare_parsing()
    parser = ArgumentParser(prog=prog, description=about)
    parser.add_argument("--config", action="config", help="Path of a YAML file with the options.")
    parser.add_class_arguments(config_class)
    with readable_files():
        parsed = parser.parse_args(list(words))
    try:
        options = vars(parser.instantiate(parsed))
    except ValueError as error:
        deliberate = _deliberate(error)
        if deliberate is None:
            raise
        raise deliberate from None
    names = [field.name for field in fields(config_class)]  # type: ignore[arg-type]
    return config_class(**{name: options[name] for name in names})


def _deliberate(error: BaseException) -> RegionSpotError | None:
    """Find the error of a nested class, which jsonargparse wraps where the class is optional."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, RegionSpotError):
        cause = cause.__cause__ or cause.__context__
    return cause


def prepare_parsing() -> None:
    """Make jsonargparse use docstrings as help, import only our code, and limit the size of YAML.

    Training allows Lightning's code, too, and what ``--allow_code`` names (`code_limited_to`).
    YAML aliases can nest: a few hundred bytes, in which each of ten lists holds the one before it
    ten times, are ten billion values to code that walks through them.
    """
    # The docstrings under the fields of configuration classes become help texts.
    set_parsing_settings(
        docstring_parse_attribute_docstrings=True,
        import_path_denylist=["*"],
        import_path_allowlist=["regionspot"],
        # A group of options takes {class_path: ...} in place of its fields, too.
        instantiate_subclass_spec_in_any=False,
    )
    load = get_loader("yaml")
    if not isinstance(load, _Bounded):
        set_loader("yaml", _Bounded(load), exceptions=(yaml.YAMLError,))


@contextmanager
def readable_files() -> Iterator[None]:
    """Turn the decoding error of a configuration file that is not text into a message.

    Raises:
        ConfigError: It is not UTF-8.
    """
    try:
        yield
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"a file of options is not UTF-8 text: it has {error.object[:16]!r} near byte"
            f" {error.start}. Give YAML with --config."
        ) from error


def take_allow_code(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Remove ``--allow_code`` from a command line, before any configuration is read.

    Args:
        words: The command line.

    Returns:
        The remaining words, and the packages and modules allowed besides RegionSpot's and
        Lightning's.

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
                f"{ALLOW_CODE} is given {name!r}; wanted packages or modules, such as my_package or"
                " my_package.callbacks, separated by commas."
            )
    return rest, [name for name in names if name.split(".")[0] not in _ALLOWED]


@contextmanager
def code_limited_to(allowed: Sequence[str] = ()) -> Iterator[None]:
    """Restrict options to code of RegionSpot, Lightning and these modules within the block."""
    set_parsing_settings(
        import_path_denylist=["*"],
        import_path_allowlist=[*_ALLOWED, *allowed],
        # Where any value will do, {class_path: ...} stays a value.
        instantiate_subclass_spec_in_any=False,
    )
    try:
        yield
    finally:
        set_parsing_settings(import_path_denylist=list(allowed))


class _RefusedError(yaml.YAMLError):
    """A value that is refused; of the class that jsonargparse expects from its loaders."""


class _Bounded:
    """Loads YAML whose values, with aliases expanded, are of bounded size.

    Args:
        load: The loader to wrap.
    """

    def __init__(self, load: Callable[[str], Any]) -> None:
        self._load = load

    def __call__(self, text: str) -> Any:
        # Before values are made: to merge mappings (<<) writes them out.
        nodes = yaml.compose(text, Loader=_NODES)
        num_nodes = 1 if nodes is None else _num_nodes(nodes, {}, depth=0)
        if num_nodes > _MAX_NODES:
            raise _RefusedError(
                f"with its aliases written out it has {num_nodes:.3g} values; wanted at most"
                f" {_MAX_NODES:,}. Write each value once, in place of *aliases to lists of lists."
            )
        try:
            return self._load(text)
        except ValueError as error:  # a number of thousands of digits
            raise _RefusedError(f"a value cannot be read: {error}") from error


def _num_nodes(node: yaml.Node, known: dict[int, int], *, depth: int) -> int:
    """Count the values in a node with aliases expanded, visiting each node once."""
    if depth > _MAX_DEPTH:
        raise _RefusedError(
            f"lists or mappings lie more than {_MAX_DEPTH} deep within each other, or a value"
            " contains itself. Write it flatter."
        )
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        parts = chain(*node.value) if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] = 1 + sum(_num_nodes(part, known, depth=depth + 1) for part in parts)
    return known[id(node)]
