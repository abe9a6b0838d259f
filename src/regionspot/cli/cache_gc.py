"""``regionspot cache gc``: find files in caches that belong to no cache, and remove them.

Lists temporary files of crashes, shards beyond the plan and strangers; ``--delete`` removes them.
Exits with 0, whether or not it finds any, and with 2 if a cache cannot be read or is being written
(then the others are looked at nevertheless). With ``--json`` one JSON object a cache.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from jsonargparse import ArgumentParser

from regionspot.cache import exclusive_writer, find_garbage
from regionspot.cli.errors import run_cli
from regionspot.cli.several_caches import examine_each, table
from regionspot.core.units import human_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class GarbageReport:
    """What belongs to no cache; the fields are the keys of ``regionspot cache gc --json``."""

    cache_dir: str
    """Folder of the cache."""
    files: list[str]
    """Files in it that are not the cache's."""
    num_bytes: int
    """Their size."""
    is_removed: bool
    """Whether they were removed."""

    def to_json(self) -> str:
        """Return the fields as a JSON object."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)


def main(args: Sequence[str]) -> None:
    """Clean caches; see ``regionspot cache gc --help``."""
    parser = ArgumentParser(prog="regionspot cache gc", description=__doc__)
    parser.add_argument("caches", nargs="+", type=str, help="Folders of feature caches.")
    parser.add_argument("--delete", action="store_true", help="Remove what was found.")
    parser.add_argument("--json", action="store_true", help="Write JSON for machines.")
    options = parser.parse_args(list(args))
    folders = [Path(folder) for folder in options.caches]
    run_cli(lambda: _clean(folders, delete=options.delete, as_json=options.json))


def _clean(folders: Sequence[Path], *, delete: bool, as_json: bool) -> None:
    done = "removed" if delete else "to remove with --delete"

    def examine(folder: Path) -> GarbageReport:
        report = _take_out(folder, delete=delete)
        if as_json:
            print(report.to_json())
            return report
        for path in report.files:
            print(path)
        if len(folders) == 1:
            size = human_bytes(report.num_bytes)
            print(f"{folder}: {len(report.files):,} files, {size} {done}")
        return report

    reports, has_failed = examine_each(folders, examine)
    if len(folders) > 1 and reports and not as_json:
        rows = [(r.cache_dir, f"{len(r.files):,}", human_bytes(r.num_bytes)) for r in reports]
        print(table(("cache", "files", done), rows))
    if has_failed:
        raise SystemExit(2)


def _take_out(folder: Path, *, delete: bool) -> GarbageReport:
    find_garbage(folder)  # a folder that is no cache is refused before it is locked
    # A writer's temporary files are no garbage while it is at work.
    with exclusive_writer(folder):
        garbage = find_garbage(folder)
        num_bytes = sum(path.lstat().st_size for path in garbage)
        if delete:
            for path in garbage:
                path.unlink()
    return GarbageReport(
        cache_dir=str(folder), files=list(map(str, garbage)), num_bytes=num_bytes, is_removed=delete
    )
