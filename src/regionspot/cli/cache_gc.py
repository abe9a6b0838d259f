"""``regionspot cache gc``: find files that caching has left over in caches, and remove them.

Lists temporary files of crashes, shards beyond the plan and locks; ``--delete`` removes them. Files
of other names, which caching did not make, stay and are not listed.
Exits with 0, whether or not it finds any, and with 2 if a cache cannot be read or is being written
(then the others are looked at nevertheless). With ``--json`` one JSON object a cache.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from jsonargparse import ArgumentParser

from regionspot.cache import exclusive_writer, find_garbage, opened_files
from regionspot.cli.run import run_cli
from regionspot.cli.several_caches import examine_each, table
from regionspot.core.text import human_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class GarbageReport:
    """What is left over; the fields are the keys of ``regionspot cache gc --json``."""

    cache_dir: str
    """Folder of the cache."""
    files: list[str]
    """Files in it that caching has left over."""
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
    parser.add_argument("caches", nargs="+", type=str, help="Folders or URLs of feature caches.")
    parser.add_argument("--delete", action="store_true", help="Remove what was found.")
    parser.add_argument("--json", action="store_true", help="Write JSON for machines.")
    options = parser.parse_args(list(args))
    run_cli(lambda: _clean(options.caches, delete=options.delete, as_json=options.json))


def _clean(caches: Sequence[str], *, delete: bool, as_json: bool) -> None:
    done = "removed" if delete else "to remove with --delete"

    def examine(cache: str) -> GarbageReport:
        report = _take_out(cache, delete=delete)
        if as_json:
            print(report.to_json())
            return report
        for path in report.files:
            print(path)
        if len(caches) == 1:
            size = human_bytes(report.num_bytes)
            print(f"{report.cache_dir}: {len(report.files):,} files, {size} {done}")
        return report

    reports, has_failed = examine_each(caches, examine)
    if len(caches) > 1 and reports and not as_json:
        rows = [(r.cache_dir, f"{len(r.files):,}", human_bytes(r.num_bytes)) for r in reports]
        print(table(("cache", "files", done), rows))
    if has_failed:
        raise SystemExit(2)


def _take_out(cache: str, *, delete: bool) -> GarbageReport:
    with opened_files(cache) as files:
        find_garbage(files)  # a folder that is no cache is refused before it is locked
        # A writer's temporary files are no garbage while it is at work. (Writers behind a URL hold
        # no locks, nor do they leave such files there.)
        with exclusive_writer(files.folder):
            garbage = find_garbage(files)
            if delete:
                for name in garbage:
                    files.remove(name)
        return GarbageReport(
            cache_dir=files.location,
            files=[f"{files.location}/{name}" for name in garbage],
            num_bytes=sum(garbage.values()),
            is_removed=delete,
        )
