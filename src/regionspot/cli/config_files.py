"""How the YAML of configuration files and option values is read."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader, set_parsing_settings

from regionspot.core.errors import ConfigError

_NODES = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MAX_NODES = 100_000
_MAX_DEPTH = 100


class _RefusedError(yaml.YAMLError):
    """Of the kind that jsonargparse expects of what it cannot read."""


def prepare_parsing() -> None:
    """Have jsonargparse show docstrings as help, import only our code, and refuse YAML that grows.

    Training allows Lightning's code, too, and what ``--allow_code`` names (see `allowed_code`).
    YAML may name a list and use it again: a few hundred bytes, in which each of ten lists holds the
    one before it ten times, are ten billion values to whoever walks through them.
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
    """Say of a configuration file that is no text what it is.

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


class _Bounded:
    """A loader of YAML of values of bounded size.

    Args:
        load: The loader whose values these are.
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
    """Count the values in a value, each as often as it is met, but look at each only once."""
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
