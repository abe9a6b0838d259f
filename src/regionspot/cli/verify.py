"""Verify caches, heads and checkpoints."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

from jsonargparse import ArgumentParser

from regionspot.cache import (
    Fingerprint,
    Problem,
    TextBankStore,
    manifest_path,
    shards_path,
    tar_name,
    text_banks_path,
    verify_cache,
)
from regionspot.cli.run import run_cli, show_progress
from regionspot.core.errors import (
    CacheCorruptError,
    CacheMismatchError,
    MissingFileError,
    RegionSpotError,
    WeightsError,
)
from regionspot.storage import is_url

_BANKS_REMEDY = "Copy it again from the run that wrote it, or remove it: names are embedded then."

Kind: TypeAlias = Literal["cache", "head", "checkpoint"]
Report = TypeVar("Report")


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What was found in one thing; the fields are the keys of ``regionspot verify --json``."""

    path: str
    """Where it is."""
    kind: Kind
    """What it is."""
    is_whole: bool
    """Whether all is as it was written."""
    problems: list[Problem]
    """What is not; keys as the fields of `Problem`, of which a head has only the message."""

    def to_json(self, *, of_caches: bool) -> str:
        """Return the fields as a JSON object; of caches alone it names the path ``cache_dir``."""
        fields = asdict(self)
        if of_caches:
            path, _ = fields.pop("path"), fields.pop("kind")
            fields = {"cache_dir": path, **fields}
        return json.dumps(fields, indent=1, ensure_ascii=False)

    @property
    def damaged_shards(self) -> set[int]:
        """Shards of a cache that ``repair`` would make again."""
        return {problem.shard for problem in self.problems if problem.shard is not None}


def verify_paths(words: Sequence[str]) -> None:
    """``regionspot verify``: read every byte of caches, heads and checkpoints, and report damage.

    Takes a cache (a folder or a URL), a trained head (its folder or ``.safetensors`` file), a
    checkpoint (``.ckpt``) or the folder of a run, whose head and checkpoints are all verified.
    ``regionspot cache verify`` is the same command for caches alone. Exits with 0 if all is as it
    was written, with 1 if anything is not, and with 2 if a path holds nothing that can be verified
    (the others are still verified). With ``--json``, prints one JSON object for each.
    """
    _run(words, prog="regionspot verify", name="paths", of_caches=False)


def verify_caches(words: Sequence[str]) -> None:
    """Verify caches only; see ``regionspot cache verify --help``."""
    show_progress()
    _run(words, prog="regionspot cache verify", name="caches", of_caches=True)


def _run(words: Sequence[str], *, prog: str, name: str, of_caches: bool) -> None:
    parser = ArgumentParser(prog=prog, description=verify_paths.__doc__)
    what = "feature caches" if of_caches else "caches, heads, checkpoints or runs"
    parser.add_argument(name, nargs="+", type=str, help=f"Folders, files or URLs of {what}.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    options = parser.parse_args(list(words))
    examine = examine_cache if of_caches else examine_path
    run_cli(lambda: _verify(options[name], examine, as_json=options.json, of_caches=of_caches))


def _verify(
    paths: Sequence[str],
    examine: Callable[[str], list[VerifyReport]],
    *,
    as_json: bool,
    of_caches: bool,
) -> None:
    def examine_and_print(path: str) -> list[VerifyReport]:
        found = examine(path)
        for report in found:
            if as_json:
                print(report.to_json(of_caches=of_caches))
                continue
            for problem in report.problems:
                print(describe_problem(report.path, problem))
            if len(paths) == 1:
                problems = f"{len(report.problems)} problems"
                print(f"{report.path}: {'whole' if report.is_whole else problems}")
        return found

    by_path, has_failed = examine_each(paths, examine_and_print)
    reports = [report for found in by_path for report in found]
    if len(paths) > 1 and reports and not as_json:
        first = "cache" if of_caches else "path"
        print(table((first, "problems", "damaged shards", "verdict"), list(map(_row, reports))))
    if has_failed:
        raise SystemExit(2)
    if not all(report.is_whole for report in reports):
        raise SystemExit(1)


def examine_path(path: str) -> list[VerifyReport]:
    """Find out what is at a path, and verify it; of a run the head and every checkpoint.

    Raises:
        MissingFileError: There is nothing that can be verified.
        RegionSpotError: A cache cannot be read at all.
    """
    folder = Path(path)
    if is_url(path) or manifest_path(folder).is_file() or shards_path(folder).is_dir():
        return examine_cache(path)
    # Here, since torch takes seconds that a cache need not wait for.
    from regionspot.model import CHECKPOINT_SUFFIX, RUN_FOLDER, WEIGHTS_SUFFIX

    endings = (CHECKPOINT_SUFFIX, WEIGHTS_SUFFIX)
    if folder.suffix in endings and folder.is_file():
        return [_examine_head(folder)]
    found = [
        file
        for pattern in ("*", f"{RUN_FOLDER}/*", "checkpoints/*")
        for file in sorted(folder.glob(pattern))
        if file.suffix in endings and file.is_file()
    ]
    if not found:
        raise MissingFileError(
            f"there is no cache, head or checkpoint at {path}. Give the folder of one or of a run,"
            f" a {CHECKPOINT_SUFFIX} or {WEIGHTS_SUFFIX} file, or the URL of a cache."
        )
    return [_examine_head(file) for file in found]


def examine_cache(cache: str) -> list[VerifyReport]:
    """Verify a cache.

    Raises:
        RegionSpotError: It cannot be read at all.
    """
    problems = verify_cache(cache)
    return [VerifyReport(path=cache, kind="cache", is_whole=not problems, problems=problems)]


def _examine_head(path: Path) -> VerifyReport:
    from regionspot.model import CHECKPOINT_SUFFIX, load_trained_head

    kind: Kind = "checkpoint" if path.suffix == CHECKPOINT_SUFFIX else "head"
    problems = []
    try:
        trained_head = load_trained_head(path)
        banks = TextBankStore(text_banks_path(path.parent), remedy=_BANKS_REMEDY)
        if kind == "head" and banks.path.is_file():
            fingerprint = Fingerprint.from_dict(dict(trained_head.card.fingerprint))
            banks.banks(clip_sha256=fingerprint.text_encoder_sha256)
    except (MissingFileError, WeightsError, CacheCorruptError, CacheMismatchError) as error:
        problems = [Problem(message=str(error))]
    return VerifyReport(path=str(path), kind=kind, is_whole=not problems, problems=problems)


def _row(report: VerifyReport) -> tuple[str, ...]:
    counts = (f"{len(report.problems):,}", f"{len(report.damaged_shards):,}")
    return report.path, *counts, "whole" if report.is_whole else "damaged"


def describe_problem(cache: str, problem: Problem) -> str:
    """Say in one line what is damaged, and where."""
    if problem.shard is None:
        return problem.message
    parts = [f"{cache}/{tar_name(problem.shard)}"]
    parts += [f"image {problem.key}"] if problem.key else []
    parts += [problem.member] if problem.member else []
    parts += [f"byte {problem.offset}"] if problem.offset is not None else []
    return f"{', '.join(parts)}: {problem.message}"


def examine_each(
    caches: Sequence[str], examine: Callable[[str], Report]
) -> tuple[list[Report], bool]:
    """Examine caches one after the other, and continue where one cannot be read.

    Args:
        caches: Their folders or URLs.
        examine: Called with each; its errors are printed.

    Returns:
        The reports of the caches without an error, and whether there were errors.
    """
    reports, has_failed = [], False
    for cache in caches:
        try:
            reports.append(examine(cache))
        except RegionSpotError as error:
            print(f"error: {error}", file=sys.stderr)
            has_failed = True
    return reports, has_failed


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a table, the first column left-aligned and the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for name, *values in (header, *rows):
        cells = [name.ljust(widths[0])]
        cells += [value.rjust(width) for value, width in zip(values, widths[1:], strict=True)]
        lines.append("  ".join(cells))
    return "\n".join(lines)
