"""Show what is in finished caches, and remove what caching left over in them."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from jsonargparse import ArgumentParser

from regionspot.cache import (
    CacheStats,
    collect_stats,
    exclusive_writer,
    find_garbage,
    opened_files,
)
from regionspot.cli.run import run_cli
from regionspot.cli.verify import examine_each, table
from regionspot.core.text import human_bytes


def show_stats(words: Sequence[str]) -> None:
    """``regionspot cache stats``: print what is in finished caches.

    Prints tables, or with ``--json`` one JSON object per cache, one after the other. Exits with 2
    if a cache cannot be read (the others are still described), else with 0.
    """
    parser = ArgumentParser(prog="regionspot cache stats", description=show_stats.__doc__)
    parser.add_argument("caches", nargs="+", type=str, help="Folders or URLs of feature caches.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    options = parser.parse_args(list(words))
    run_cli(lambda: _print_stats(options.caches, as_json=options.json))


def _print_stats(caches: Sequence[str], *, as_json: bool) -> None:
    all_stats, has_failed = examine_each(caches, collect_stats)
    if as_json:
        print("\n".join(stats.to_json() for stats in all_stats))
    elif len(caches) > 1 and all_stats:
        header = ("cache", "images", "left out", "regions", "classes", "shards", "size", "models")
        print(table(header, list(map(_row, all_stats))))
    else:
        print("\n".join(map(_facts, all_stats)))
    if has_failed:
        raise SystemExit(2)


def _row(stats: CacheStats) -> tuple[str, ...]:
    images = (stats.num_images, stats.num_quarantined)
    numbers = (*images, stats.num_regions, stats.num_classes, stats.num_shards)
    models = f"SAM {stats.sam_model}, CLIP {stats.clip_model}"
    return stats.cache_dir, *(f"{n:,}" for n in numbers), human_bytes(stats.total_bytes), models


def _facts(stats: CacheStats) -> str:
    spread = stats.regions_per_image
    reasons = "; ".join(f"{why} ({count:,})" for why, count in stats.quarantine_reasons.items())
    classes = ", ".join(f"{n} ({count:,})" for n, count in stats.most_frequent_classes.items())
    rows = {
        "data set": f"{stats.name} ({stats.annotation_format})",
        "models": f"SAM {stats.sam_model}, CLIP {stats.clip_model}",
        "numbers": _numbers(stats),
        "prompt": stats.prompt,
        "proposals": stats.proposals or "none: annotated regions",
        "images": f"{stats.num_images:,} in {stats.num_shards:,} shards,"
        f" {stats.num_images_without_regions:,} without regions",
        "left out": f"{stats.num_quarantined:,} images{f': {reasons}' if reasons else ''}",
        "regions": f"{stats.num_regions:,}; an image has {spread['median']:g} (median),"
        f" {spread['p95']:g} (95 %), at most {spread['max']:g}",
        "when decoded": f"{stats.num_clipped_regions:,} regions clipped,"
        f" {stats.num_dropped_regions:,} dropped",
        "classes": f"{stats.num_classes:,}, {stats.num_classes_without_regions:,} of them without"
        f" regions{f'; most: {classes}' if classes else ''}",
        "text banks": ", ".join(stats.text_banks) or "none",
        "size": f"{human_bytes(stats.total_bytes)}, {human_bytes(stats.bytes_per_image)} an image",
    }
    width = max(map(len, rows))
    return "\n".join([stats.cache_dir, *(f"  {key:<{width}}  {rows[key]}" for key in rows)])


def _numbers(stats: CacheStats) -> str:
    how = f"computed in {stats.precision}, feature maps stored as {stats.codec}"
    error = stats.measured_error
    if error is None:
        return how
    parts = (("feature maps", error.feature_map), ("tokens", error.position_tokens))
    told = [f"{of} {value:.2%}" for of, value in parts if value is not None]
    return f"{how}; error on {error.num_images} images: {', '.join(told) or 'not measurable'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GarbageReport:
    """What is left over in a cache; the fields are the keys of ``regionspot cache gc --json``."""

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


def remove_garbage(words: Sequence[str]) -> None:
    """``regionspot cache gc``: list or remove files that caching has left over in caches.

    Lists temporary files of crashes, shards beyond the plan and locks; ``--delete`` removes them.
    Files of other names, which caching did not make, stay and are not listed. Exits with 0, whether
    or not it finds any, and with 2 if a cache cannot be read or is being written (the others are
    still examined). With ``--json``, prints one JSON object per cache.
    """
    parser = ArgumentParser(prog="regionspot cache gc", description=remove_garbage.__doc__)
    parser.add_argument("caches", nargs="+", type=str, help="Folders or URLs of feature caches.")
    parser.add_argument("--delete", action="store_true", help="Remove what was found.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    options = parser.parse_args(list(words))
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
