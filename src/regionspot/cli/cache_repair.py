"""``regionspot cache repair``: make damaged parts of a cache again, and nothing else.

Takes the options that made the cache (``--config`` and what was added). Reads every byte first, so
it takes as long as ``regionspot cache verify``; whole shards stay as they are, and the cache ends
with the bytes that it had before the damage.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from regionspot.cli.cache_verify import describe_problem
from regionspot.cli.errors import run_cli, terminable
from regionspot.cli.options import parse_options
from regionspot.extraction import CacheConfig, repair_cache


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairConfig(CacheConfig):
    """The options of the cache, and one more."""

    retry_quarantined: bool = False
    """Make shards with quarantined images again, too: their files may have been mended."""


def main(args: Sequence[str]) -> None:
    """Repair a cache; see ``regionspot cache repair --help``."""
    run_cli(lambda: _repair(args))


def _repair(args: Sequence[str]) -> None:
    config = parse_options(RepairConfig, args, prog="regionspot cache repair", about=__doc__)
    with terminable("whole shards are safe; give the same command again to go on"):
        problems, summary = repair_cache(config, retry_quarantined=config.retry_quarantined)
    lines = [describe_problem(summary.location, problem) for problem in problems]
    found = f"{len(problems)} problems found and mended" if problems else "nothing was damaged"
    print("\n".join([*lines, *summary.lines(), found]))
