"""``regionspot cache stats``: what is in finished caches, in numbers.

Tables for people, or with ``--json`` one JSON object a cache, one below the other. Exits with 2 if
a cache cannot be read (then the others are described nevertheless), else with 0.
"""

from collections.abc import Sequence

from jsonargparse import ArgumentParser

from regionspot.cache import CacheStats, collect_stats
from regionspot.cli.run import run_cli
from regionspot.cli.several_caches import examine_each, table
from regionspot.core.text import human_bytes


def main(args: Sequence[str]) -> None:
    """Describe caches; see ``regionspot cache stats --help``."""
    parser = ArgumentParser(prog="regionspot cache stats", description=__doc__)
    parser.add_argument("caches", nargs="+", type=str, help="Folders or URLs of feature caches.")
    parser.add_argument("--json", action="store_true", help="Write JSON for machines.")
    options = parser.parse_args(list(args))
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
