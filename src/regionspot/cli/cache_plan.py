"""``regionspot cache plan``: what a cache will take, before anything is written.

Takes the options of the cache. Says how many images, regions, shards and bytes there will be, what
the disk has free, and about how long it takes here, from a short probe with the real models. Exits
with 2 if it cannot fit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from regionspot.cli.run import parse_options, run_cli
from regionspot.extraction import CacheConfig
from regionspot.extraction.estimate import estimate_cache


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanConfig(CacheConfig):
    """The options of the cache, and two more."""

    num_probed: int = 16
    """Images to measure the time on, at least a batch; one more batch warms up."""
    json: bool = False
    """Write JSON for machines."""


def main(args: Sequence[str]) -> None:
    """Plan a cache; see ``regionspot cache plan --help``."""
    run_cli(lambda: _plan(args))


def _plan(args: Sequence[str]) -> None:
    config = parse_options(PlanConfig, args, prog="regionspot cache plan", about=__doc__)
    estimate = estimate_cache(config, num_probed=config.num_probed)
    print(estimate.to_json() if config.json else "\n".join(estimate.lines()))
    estimate.check_fits()
