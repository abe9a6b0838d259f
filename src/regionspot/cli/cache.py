"""Make a feature cache, plan it, repair it, and merge several into one."""

import json
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from jsonargparse import ArgumentParser

from regionspot.cache import CacheMerge, Problem, exclusive_writer
from regionspot.cli.options import parse_options
from regionspot.cli.run import run_cli, show_progress
from regionspot.cli.verify import describe_problem
from regionspot.core.errors import ConfigError
from regionspot.core.stopping import stop_advice
from regionspot.extraction import CacheConfig, CacheSummary, cache_features, repair_cache
from regionspot.extraction.destination import check_cache_or_empty
from regionspot.extraction.estimate import estimate_cache
from regionspot.storage import is_url

_GO_ON = "finished shards are safe; give the same command again to go on"


def make_cache(words: Sequence[str]) -> None:
    """Run the frozen SAM and CLIP once over annotated images, and store all that training needs.

    ``python cache_features.py --config configs/cache/objects365_bl.yaml``, or the same as
    ``regionspot cache``. It can be stopped at any moment: the same command continues where it was.
    With the same options, ``regionspot cache plan`` estimates size and time beforehand, and
    ``repair`` makes damaged parts again. ``verify <caches>`` reports all damage, ``stats <caches>``
    and ``gc <caches>`` count and clean up, and ``merge <caches>`` joins several into one.
    """
    show_progress()
    # The parser builds the configuration, whose own checks raise errors for the user, too.
    run_cli(lambda: _make(words))


def parse_config(words: Sequence[str]) -> CacheConfig:
    """Read the options of the command line and of the file that ``--config`` names.

    Raises:
        ConfigError: An option cannot work.
    """
    return parse_options(CacheConfig, words, prog="cache_features.py", about=make_cache.__doc__)


def _make(words: Sequence[str]) -> None:
    config = parse_config(words)
    with stop_advice(_GO_ON):
        print("\n".join(cache_features(config).lines()))


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanConfig(CacheConfig):
    """The options of the cache, and two more."""

    num_probed: int = 16
    """Images to measure the time on, at least a batch; one more batch warms up."""
    json: bool = False
    """Print JSON."""


def plan_cache(words: Sequence[str]) -> None:
    """``regionspot cache plan``: estimate what a cache takes, before anything is written.

    Takes the options of the cache. Prints the numbers of images, regions, shards and bytes, the
    free space of the disk, and about how long it takes here, from a short probe with the real
    models. Exits with 2 if the cache cannot fit.
    """
    show_progress()
    run_cli(lambda: _plan(words))


def _plan(words: Sequence[str]) -> None:
    config = parse_options(
        PlanConfig, words, prog="regionspot cache plan", about=plan_cache.__doc__
    )
    estimate = estimate_cache(config, num_probed=config.num_probed)
    print(estimate.to_json() if config.json else "\n".join(estimate.lines()))
    estimate.check_fits()


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairConfig(CacheConfig):
    """The options of the cache, and two more."""

    retry_quarantined: bool = False
    """Make shards with quarantined images again, too: their files may have been mended."""
    json: bool = False
    """Print JSON."""


def repair_damage(words: Sequence[str]) -> None:
    """``regionspot cache repair``: make the damaged parts of a cache again, and nothing else.

    Takes the options that made the cache (``--config`` and what was added). Reads every byte first,
    so it takes as long as ``regionspot cache verify``. Whole shards stay as they are, and the cache
    ends with the bytes that it had before the damage. Exits with 0 if the cache is whole in the
    end, and with 2 if it cannot be repaired. With ``--json``, prints one JSON object.
    """
    show_progress()
    run_cli(lambda: _repair(words))


def _repair(words: Sequence[str]) -> None:
    config = parse_options(
        RepairConfig, words, prog="regionspot cache repair", about=repair_damage.__doc__
    )
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


def merge_caches(words: Sequence[str]) -> None:
    """``regionspot cache merge``: make one cache of several, without running a model.

    The caches must be of the same models, settings and classes, and share no image. Images are
    distributed to shards anew; the bytes of each image stay. It can be stopped at any moment: the
    same command continues. ``--repair`` first reads every byte of a merged cache, and makes damaged
    parts again.
    """
    show_progress()
    parser = ArgumentParser(prog="regionspot cache merge", description=merge_caches.__doc__)
    parser.add_argument(
        "caches",
        nargs="+",
        type=str,
        help="Folders or URLs of finished caches, in the order of images.",
    )
    parser.add_argument(
        "--output_dir", type=str, required=True, help="Folder of the new cache, not one of these."
    )
    parser.add_argument(
        "--images_per_shard", type=int, default=1000, help="Images in one shard of it."
    )
    parser.add_argument(
        "--name", type=str, default=None, help="A name to show for it; by default theirs."
    )
    parser.add_argument(
        "--repair", action="store_true", help="Read every byte of it first, and repair the damage."
    )
    options = parser.parse_args(list(words))
    run_cli(lambda: _merge(options))


def _merge(options: Namespace) -> None:
    if is_url(options.output_dir):
        raise ConfigError(
            f"--output_dir is {options.output_dir}; wanted a folder of this machine, as caches are"
            " merged there (those to merge may be URLs). Copy the merged folder to the URL then."
        )
    output_dir = Path(options.output_dir)
    merge = CacheMerge(options.caches, images_per_shard=options.images_per_shard, name=options.name)
    with stop_advice(_GO_ON), exclusive_writer(output_dir):
        check_cache_or_empty(output_dir)
        problems = merge.remove_damage(output_dir) if options.repair else []
        index, num_written = merge.write(output_dir)
    lines = [describe_problem(str(output_dir), problem) for problem in problems]
    lines.append(
        f"{output_dir}: {len(index):,} images of {len(options.caches)} caches,"
        f" {int(index.num_regions.sum()):,} regions, {index.num_shards:,} shards"
    )
    if index.num_quarantined:
        lines.append(f"left out there already: {index.num_quarantined:,} images")
    if merge.num_repeated_ids:
        lines.append(
            f"{merge.num_repeated_ids:,} image ids occur again: fine for training, but evaluation"
            " takes them for one image"
        )
    if options.repair:
        lines.append(f"{len(problems)} problems found and mended")
    lines.append(f"{num_written:,} shards written" if num_written else "already complete")
    print("\n".join(lines))
