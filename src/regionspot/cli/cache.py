"""Run the frozen SAM and CLIP once over annotated images, and store all that training needs.

``python cache_features.py --config configs/cache/objects365_bl.yaml``, or the same as ``regionspot
cache``. It may be stopped at any moment: the same command goes on where it was. ``regionspot cache
plan`` with the same options says beforehand what it will take, ``verify <cache>`` names all damage,
``repair`` with the same options mends it, ``stats <cache>`` and ``gc <cache>`` count and clean,
``merge <caches>`` makes one of several.
"""

import logging
import sys
from collections.abc import Sequence

from regionspot.cli import (
    cache_gc,
    cache_merge,
    cache_plan,
    cache_repair,
    cache_stats,
    verify,
)
from regionspot.cli.run import parse_options, run_cli
from regionspot.core.stopping import stop_advice
from regionspot.extraction import CacheConfig, cache_features

_COMMANDS = {
    "plan": cache_plan.main,
    "verify": verify.main_of_caches,
    "repair": cache_repair.main,
    "stats": cache_stats.main,
    "gc": cache_gc.main,
    "merge": cache_merge.main,
}


def main(args: Sequence[str] | None = None) -> None:
    """Make a cache; see ``python cache_features.py --help``."""
    words = list(sys.argv[1:] if args is None else args)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if words and words[0] in _COMMANDS:
        _COMMANDS[words[0]](words[1:])
        return
    # The parser builds the configuration, whose own checks raise errors for the user, too.
    run_cli(lambda: _cache(words))


def parse_config(words: Sequence[str]) -> CacheConfig:
    """Read the options of the command line and of the file that they name.

    Raises:
        ConfigError: An option cannot work.
    """
    return parse_options(CacheConfig, words, prog="cache_features.py", about=__doc__)


def _cache(words: Sequence[str]) -> None:
    config = parse_config(words)
    with stop_advice("finished shards are safe; give the same command again to go on"):
        print("\n".join(cache_features(config).lines()))
