"""``regionspot cache gc``: find files in caches that belong to no cache, and remove them.

Lists temporary files of crashes, shards beyond the plan and strangers; ``--delete`` removes them.
"""

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from regionspot.cache import exclusive_writer, find_garbage
from regionspot.cli.errors import run_cli
from regionspot.core.units import human_bytes


def main(args: Sequence[str]) -> None:
    """Clean caches; see ``regionspot cache gc --help``."""
    parser = ArgumentParser(prog="regionspot cache gc", description=__doc__)
    parser.add_argument("caches", nargs="+", type=str, help="Folders of feature caches.")
    parser.add_argument("--delete", action="store_true", help="Remove what was found.")
    options = parser.parse_args(list(args))
    folders = [Path(folder) for folder in options.caches]
    run_cli(lambda: _clean(folders, delete=options.delete))


def _clean(folders: Sequence[Path], *, delete: bool) -> None:
    for folder in folders:
        find_garbage(folder)  # a folder that is no cache is refused before it is locked
        # A writer's temporary files are no garbage while it is at work.
        with exclusive_writer(folder):
            garbage = find_garbage(folder)
            num_bytes = sum(path.lstat().st_size for path in garbage)
            for path in garbage:
                print(path)
                if delete:
                    path.unlink()
        done = "removed" if delete else "to remove with --delete"
        print(f"{folder}: {len(garbage):,} files, {human_bytes(num_bytes)} {done}")
