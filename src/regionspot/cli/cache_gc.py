"""``regionspot cache gc``: find files in caches that belong to no cache, and remove them.

Lists temporary files of crashes, shards beyond the plan and strangers; ``--delete`` removes them.
"""

from collections.abc import Sequence

from jsonargparse import ArgumentParser

from regionspot.cache import exclusive_writer, find_garbage, opened_files
from regionspot.cli.errors import run_cli
from regionspot.core.units import human_bytes


def main(args: Sequence[str]) -> None:
    """Clean caches; see ``regionspot cache gc --help``."""
    parser = ArgumentParser(prog="regionspot cache gc", description=__doc__)
    parser.add_argument("caches", nargs="+", type=str, help="Folders or URLs of feature caches.")
    parser.add_argument("--delete", action="store_true", help="Remove what was found.")
    options = parser.parse_args(list(args))
    run_cli(lambda: _clean(options.caches, delete=options.delete))


def _clean(caches: Sequence[str], *, delete: bool) -> None:
    for cache in caches:
        with opened_files(cache) as files:
            find_garbage(files)  # a folder that is no cache is refused before it is locked
            # A writer's temporary files are no garbage while it is at work. (Writers behind a URL
            # hold no locks, nor do they leave such files there.)
            with exclusive_writer(files.folder):
                garbage = find_garbage(files)
                for name in garbage:
                    print(f"{files.location}/{name}")
                    if delete:
                        files.remove(name)
            done = "removed" if delete else "to remove with --delete"
            num_bytes = human_bytes(sum(garbage.values()))
            print(f"{files.location}: {len(garbage):,} files, {num_bytes} {done}")
