"""Which classes and functions a configuration may name.

The options of Lightning's Trainer take classes by their path (``class_path``, or short as in
``--trainer.callbacks+=my_package.MyCallback``): jsonargparse imports the module and calls what it
finds there, which runs code. By default that is possible for RegionSpot's and Lightning's own code
only. The check is jsonargparse's (4.53): before anything is imported, and once more for where the
thing found was defined, so that ``lightning.pytorch.os.system`` does not help.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NoReturn

from jsonargparse import set_parsing_settings
from lightning.pytorch.cli import LightningArgumentParser
from typing_extensions import override

from regionspot.core.errors import ConfigError

ALLOW_CODE: Final = "--allow_code"
ALLOW_CODE_HELP: Final = (
    "Packages or modules, separated by commas, whose classes and functions options may name, beside"
    " those of RegionSpot and Lightning: naming them runs their code. Only on the command line."
)
_ALLOWED: Final = ("lightning", "regionspot")
_DENIED = re.compile(r"Importing '([\w.]+)' is not allowed|names ([\w.]+), which is neither")
"""jsonargparse's message, or our own of a parser inside, of the options of a class."""


def take_allow_code(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Take ``--allow_code`` out of a command line, before any configuration is read.

    Args:
        words: The command line.

    Returns:
        The other words, and the packages and modules that are allowed beside ours and Lightning's.

    Raises:
        ConfigError: A name is no dotted name of a module.
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
    """Let options name only code of RegionSpot, Lightning and these modules in the block."""
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


class LimitedArgumentParser(LightningArgumentParser):
    """Says which option lets a configuration name other code."""

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the error and exit with 2.

        Raises:
            ConfigError: The error is that code is not allowed.
        """
        denied = _DENIED.search(message)
        if denied is None:
            super().error(message, ex)
        path = denied[1] or denied[2]
        module = path.rpartition(".")[0]
        raise ConfigError(
            f"an option or a configuration names {path}, which is neither of RegionSpot nor of"
            " Lightning: importing it runs its code. If you trust that code, allow it on the"
            f" command line: {ALLOW_CODE} {module}"
        ) from None
