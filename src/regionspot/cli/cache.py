"""``regionspot cache`` and its ``plan``, ``repair`` and ``merge``: all that writes caches."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from regionspot.cache import CacheMerge, exclusive_writer
from regionspot.cli.options import CommandParser, parse_options
from regionspot.cli.run import reported_errors, show_progress
from regionspot.cli.verify import describe_problem
from regionspot.core.errors import ConfigError
from regionspot.core.stopping import stop_advice
from regionspot.extraction import CacheConfig, cache_features, repair_cache
from regionspot.extraction.destination import check_cache_or_empty
from regionspot.extraction.estimate import estimate_cache
from regionspot.storage import is_url

_RESUME = "finished shards are safe; run the same command again to resume"


@reported_errors()
def make_cache(words: Sequence[str]) -> None:
    """Run the frozen SAM and CLIP once over annotated images and store their features.

    ``python cache_features.py --config configs/cache/objects365_bl.yaml``, or equivalently
    ``regionspot cache``. It can be interrupted at any time; the same command resumes it. Further
    commands: ``regionspot cache plan`` estimates size and time, and ``repair`` rebuilds damaged
    shards, both with the same options; ``verify <caches>`` reports damage, ``stats <caches>``
    prints statistics, ``gc <caches>`` removes leftover files, and ``merge <caches>`` joins caches.
    """
    show_progress()
    config = parse_config(words)
    with stop_advice(_RESUME):
        print("\n".join(cache_features(config).lines()))


def parse_config(words: Sequence[str]) -> CacheConfig:
    """Read the options of ``regionspot cache`` from a command line.

    Raises:
        ConfigError: An option is invalid.
    """
    return parse_options(CacheConfig, words, prog="cache_features.py", about=make_cache.__doc__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanConfig(CacheConfig):
    """The options of ``regionspot cache``, and two more."""

    num_probed: int = 16
    """Number of images to measure the time on, at least one batch. One more batch warms up."""
    json: bool = False
    """Print JSON."""


@reported_errors()
def plan_cache(words: Sequence[str]) -> None:
    """Estimate the size of a cache and the time to make it.

    Takes the options of ``regionspot cache`` and writes nothing. Prints the number of images,
    regions, shards and bytes, the free disk space, and the estimated time, measured by a short run
    of the real models. Exits with 2 if the cache does not fit on the disk.
    """
    show_progress()
    config = parse_options(
        PlanConfig, words, prog="regionspot cache plan", about=plan_cache.__doc__
    )
    estimate = estimate_cache(config, num_probed=config.num_probed)
    print(estimate.to_json() if config.json else "\n".join(estimate.lines()))
    estimate.check_fits()


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairConfig(CacheConfig):
    """The options of ``regionspot cache``, and two more."""

    retry_quarantined: bool = False
    """Also rebuild shards with quarantined images, for instance after fixing the image files."""
    json: bool = False
    """Print JSON."""


@reported_errors()
def repair_damage(words: Sequence[str]) -> None:
    """Rebuild the damaged parts of a cache.

    Takes the options that the cache was made with (``--config`` and any others). Reads every byte
    first, so it takes as long as ``regionspot cache verify``. Undamaged shards are not touched, and
    the repaired cache is identical, byte for byte, to the cache before the damage. Exits with 0 if
    the cache is intact in the end, and with 2 if it cannot be repaired. ``--json true`` prints one
    JSON object.
    """
    show_progress()
    config = parse_options(
        RepairConfig, words, prog="regionspot cache repair", about=repair_damage.__doc__
    )
    with stop_advice(_RESUME):
        problems, summary = repair_cache(config, retry_quarantined=config.retry_quarantined)
    if config.json:
        numbers = asdict(summary)
        del numbers["annotations"], numbers["name_notes"], numbers["location"]
        numbers |= {"cache_dir": summary.location, "mended": list(map(asdict, problems))}
        print(json.dumps(numbers, indent=1, ensure_ascii=False))
        return
    lines = [describe_problem(summary.location, problem) for problem in problems]
    found = f"{len(problems)} problems found and repaired" if problems else "no damage found"
    print("\n".join([*lines, *summary.lines(), found]))


@reported_errors()
def merge_caches(words: Sequence[str]) -> None:
    """Join several caches into one, without running a model.

    The caches must have the same models, settings and classes, and no image in common. Images are
    distributed over new shards; their bytes do not change. Merging can be interrupted at any time;
    the same command resumes it. ``--repair`` first reads every byte of an existing merged cache and
    rebuilds its damaged shards.
    """
    show_progress()
    parser = CommandParser(prog="regionspot cache merge", description=merge_caches.__doc__)
    parser.add_argument(
        "caches",
        nargs="+",
        type=str,
        help="Folders or URLs of complete caches, in the order in which to join them.",
    )
    parser.add_argument(
        "--output_dir", type=str, required=True, help="Folder to write the merged cache to."
    )
    parser.add_argument("--images_per_shard", type=int, default=1000, help="Images in each shard.")
    parser.add_argument(
        "--name", type=str, default=None, help="Display name; by default the joined names."
    )
    parser.add_argument(
        "--repair", action="store_true", help="Read every byte first and rebuild damaged shards."
    )
    options = parser.parse_args(list(words))
    if is_url(options.output_dir):
        raise ConfigError(
            f"--output_dir is {options.output_dir}; wanted a local folder (the caches to merge may"
            " be URLs). Merge into a folder and copy it to the URL afterwards."
        )
    output_dir = Path(options.output_dir)
    merge = CacheMerge(options.caches, images_per_shard=options.images_per_shard, name=options.name)
    with stop_advice(_RESUME), exclusive_writer(output_dir):
        check_cache_or_empty(output_dir)
        problems = merge.remove_damage(output_dir) if options.repair else []
        index, num_written = merge.write(output_dir)
    lines = [describe_problem(str(output_dir), problem) for problem in problems]
    lines.append(
        f"{output_dir}: {len(index):,} images of {len(options.caches)} caches,"
        f" {int(index.num_regions.sum()):,} regions, {index.num_shards:,} shards"
    )
    if index.num_quarantined:
        lines.append(f"left out of the merged caches: {index.num_quarantined:,} images")
    if merge.num_repeated_ids:
        lines.append(
            f"{merge.num_repeated_ids:,} image ids are repeated: fine for training, but evaluation"
            " treats them as one image"
        )
    if options.repair:
        lines.append(f"{len(problems)} problems found and repaired")
    lines.append(f"{num_written:,} shards written" if num_written else "already complete")
    print("\n".join(lines))
