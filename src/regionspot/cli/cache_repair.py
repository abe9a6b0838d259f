"""``regionspot cache repair``: make damaged parts of a cache again, and nothing else.

Takes the options that made the cache (``--config`` and what was added). Reads every byte first, so
it takes as long as ``regionspot cache verify``; whole shards stay as they are, and the cache ends
with the bytes that it had before the damage. Exits with 0 if the cache is whole then, whether or
not it was before, and with 2 if it cannot be repaired. With ``--json`` one JSON object.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from regionspot.cache import Problem
from regionspot.cli.run import parse_options, run_cli
from regionspot.cli.verify import describe_problem
from regionspot.core.stopping import stop_advice
from regionspot.extraction import CacheConfig, CacheSummary, repair_cache


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairConfig(CacheConfig):
    """The options of the cache, and two more."""

    retry_quarantined: bool = False
    """Make shards with quarantined images again, too: their files may have been mended."""
    json: bool = False
    """Write JSON for machines."""


def main(args: Sequence[str]) -> None:
    """Repair a cache; see ``regionspot cache repair --help``."""
    run_cli(lambda: _repair(args))


def _repair(args: Sequence[str]) -> None:
    config = parse_options(RepairConfig, args, prog="regionspot cache repair", about=__doc__)
    with stop_advice("whole shards are safe; give the same command again to go on"):
        problems, summary = repair_cache(config, retry_quarantined=config.retry_quarantined)
    print(_as_json(problems, summary) if config.json else _as_text(problems, summary))


def _as_json(problems: Sequence[Problem], summary: CacheSummary) -> str:
    numbers = asdict(summary)
    del numbers["annotations"], numbers["name_notes"], numbers["location"]
    found = {"cache_dir": summary.location, "mended": list(map(asdict, problems))}
    return json.dumps({**numbers, **found}, indent=1, ensure_ascii=False)


def _as_text(problems: Sequence[Problem], summary: CacheSummary) -> str:
    lines = [describe_problem(summary.location, problem) for problem in problems]
    found = f"{len(problems)} problems found and mended" if problems else "nothing was damaged"
    return "\n".join([*lines, *summary.lines(), found])
