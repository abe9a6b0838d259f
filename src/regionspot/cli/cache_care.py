"""``regionspot cache stats`` and ``regionspot cache gc``: describe and clean up caches."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from regionspot.cache import (
    SCHEMA_VERSION,
    CacheStats,
    collect_stats,
    exclusive_writer,
    find_garbage,
    opened_files,
)
from regionspot.cli.run import reported_errors
from regionspot.cli.verify import examine_each, parse_paths, table
from regionspot.core.text import human_bytes


@reported_errors()
def show_stats(words: Sequence[str]) -> None:
    """Print statistics of caches.

    Prints tables, or with ``--json`` one JSON object for each cache. Exits with 2 if a cache cannot
    be read; the others are still described.
    """
    options = parse_paths(words, prog="regionspot cache stats", about=show_stats.__doc__)
    all_stats, has_failed = examine_each(options.caches, collect_stats)
    if options.json:
        print("\n".join(stats.to_json() for stats in all_stats))
    elif len(options.caches) > 1 and all_stats:
        counts = ("images", "quarantined", "regions", "classes", "shards")
        print(table(("cache", *counts, "size", "models"), list(map(_row, all_stats))))
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
        "format": _format(stats),
        "prompt": stats.prompt,
        "proposals": stats.proposals or "none: annotated regions",
        "images": f"{stats.num_images:,} in {stats.num_shards:,} shards,"
        f" {stats.num_images_without_regions:,} without regions",
        "quarantined": f"{stats.num_quarantined:,} images{f': {reasons}' if reasons else ''}",
        "regions": f"{stats.num_regions:,}; per image {spread['median']:g} (median),"
        f" {spread['p95']:g} (95th percentile), {spread['max']:g} (maximum)",
        "when decoded": f"{stats.num_clipped_regions:,} regions clipped,"
        f" {stats.num_dropped_regions:,} dropped",
        "classes": f"{stats.num_classes:,}, {stats.num_classes_without_regions:,} of them without"
        f" regions{f'; most frequent: {classes}' if classes else ''}",
        "text banks": ", ".join(stats.text_banks) or "none",
        "size": f"{human_bytes(stats.total_bytes)}, {human_bytes(stats.bytes_per_image)} per image",
    }
    width = max(map(len, rows))
    return "\n".join([stats.cache_dir, *(f"  {key:<{width}}  {rows[key]}" for key in rows)])


def _format(stats: CacheStats) -> str:
    if stats.schema_version < SCHEMA_VERSION:
        return f"{stats.schema_version}, without predicted IoUs, masks and file names"
    return f"{stats.schema_version}, {'with' if stats.masks else 'without'} masks"


def _numbers(stats: CacheStats) -> str:
    text = f"computed in {stats.precision}, feature maps stored as {stats.codec}"
    error = stats.measured_error
    if error is None:
        return text
    parts = (("feature maps", error.feature_map), ("tokens", error.position_tokens))
    errors = [f"{part} {value:.2%}" for part, value in parts if value is not None]
    return f"{text}; error on {error.num_images} images: {', '.join(errors) or 'not measurable'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GarbageReport:
    """Leftover files of a cache; the fields are the keys of ``regionspot cache gc --json``."""

    cache_dir: str
    """Folder of the cache."""
    files: list[str]
    """Paths of the leftover files."""
    num_bytes: int
    """Their total size."""
    is_removed: bool
    """Whether they were removed."""


@reported_errors()
def remove_garbage(words: Sequence[str]) -> None:
    """List leftover files in caches, or remove them with ``--delete``.

    Leftover files are temporary files of crashed runs, shards beyond the plan, and locks. Files
    that caching did not make are never listed or removed. Exits with 0 whether or not it finds any,
    and with 2 if a cache cannot be read or is being written; the others are still examined. With
    ``--json``, prints one JSON object for each cache.
    """
    options = parse_paths(
        words,
        prog="regionspot cache gc",
        about=remove_garbage.__doc__,
        flags={"--delete": "Remove the leftover files."},
    )
    is_single = len(options.caches) == 1
    done = "removed" if options.delete else "to remove with --delete"

    def examine(cache: str) -> GarbageReport:
        report = _collect_garbage(cache, delete=options.delete)
        if options.json:
            print(json.dumps(asdict(report), indent=1, ensure_ascii=False))
            return report
        for path in report.files:
            print(path)
        if is_single:
            size = human_bytes(report.num_bytes)
            print(f"{report.cache_dir}: {len(report.files):,} files, {size} {done}")
        return report

    reports, has_failed = examine_each(options.caches, examine)
    if reports and not is_single and not options.json:
        rows = [(r.cache_dir, f"{len(r.files):,}", human_bytes(r.num_bytes)) for r in reports]
        print(table(("cache", "files", done), rows))
    if has_failed:
        raise SystemExit(2)


def _collect_garbage(cache: str, *, delete: bool) -> GarbageReport:
    with opened_files(cache) as files:
        find_garbage(files)  # raises before the lock if this is not a cache
        # Temporary files of a running writer are not garbage. (Writers to a URL hold no locks and
        # leave no such files.)
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
