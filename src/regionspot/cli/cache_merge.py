"""``regionspot cache merge``: one cache of the images of several, without running a model.

The caches must be of the same models, settings and classes, and share no image. Shards are cut
anew; the bytes of each image stay. It may be stopped at any moment: the same command goes on.
``--repair`` reads every byte of a merged cache first, and makes again what is damaged.
"""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from regionspot.cache import CacheMerge, exclusive_writer
from regionspot.cli.run import run_cli
from regionspot.cli.verify import describe_problem
from regionspot.core.errors import ConfigError
from regionspot.core.stopping import stop_advice
from regionspot.extraction.destination import check_cache_or_empty
from regionspot.storage import is_url


def main(args: Sequence[str]) -> None:
    """Merge caches; see ``regionspot cache merge --help``."""
    parser = ArgumentParser(prog="regionspot cache merge", description=__doc__)
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
        "--name", type=str, default=None, help="Its name, for people; by default theirs."
    )
    parser.add_argument(
        "--repair", action="store_true", help="Read every byte of it first, and mend what is bad."
    )
    options = parser.parse_args(list(args))
    run_cli(lambda: _merge(options))


def _merge(options: Namespace) -> None:
    if is_url(options.output_dir):
        raise ConfigError(
            f"--output_dir is {options.output_dir}; wanted a folder of this machine, as caches are"
            " merged there (those to merge may be URLs). Copy the merged folder to the URL then."
        )
    output_dir = Path(options.output_dir)
    merge = CacheMerge(options.caches, images_per_shard=options.images_per_shard, name=options.name)
    advice = "finished shards are safe; give the same command again to go on"
    with stop_advice(advice), exclusive_writer(output_dir):
        check_cache_or_empty(output_dir)
        problems = merge.take_away_damage(output_dir) if options.repair else []
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
