"""``regionspot verify``: verify caches, region indices, heads and checkpoints."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

from jsonargparse import Namespace

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
from regionspot.cli.options import CommandParser
from regionspot.cli.run import reported_errors, show_progress
from regionspot.core.errors import (
    CacheCorruptError,
    CacheMismatchError,
    MissingFileError,
    RegionSpotError,
    WeightsError,
)
from regionspot.storage import is_url

_BANKS_REMEDY = "Copy it again from the run that wrote it, or remove it to embed the names anew."

Kind: TypeAlias = Literal["cache", "index", "head", "checkpoint"]
Report = TypeVar("Report")


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """The result for one path; the fields are the keys of ``regionspot verify --json``."""

    path: str
    """Path or URL."""
    kind: Kind
    """What was found there."""
    is_whole: bool
    """Whether everything is as it was written."""
    problems: list[Problem]
    """The damage; of heads and checkpoints only ``message`` is set."""

    def to_json(self, *, of_caches: bool) -> str:
        """Return a JSON object; for caches alone, ``cache_dir`` replaces ``path`` and ``kind``."""
        fields = asdict(self)
        if of_caches:
            path, _ = fields.pop("path"), fields.pop("kind")
            fields = {"cache_dir": path, **fields}
        return json.dumps(fields, indent=1, ensure_ascii=False)

    def row(self) -> tuple[str, ...]:
        """Return the row of a table: path, problems, damaged shards and verdict."""
        shards = {problem.shard for problem in self.problems if problem.shard is not None}
        verdict = "whole" if self.is_whole else "damaged"
        return self.path, f"{len(self.problems):,}", f"{len(shards):,}", verdict


@reported_errors()
def verify_paths(words: Sequence[str]) -> None:
    """Read every byte of caches, region indices, heads and checkpoints, and report damage.

    Takes caches (folders or URLs), region indices, trained heads (folders or ``.safetensors``
    files), checkpoints (``.ckpt``) and folders of runs, of which the head and all checkpoints are
    verified.
    ``regionspot cache verify`` is the same command for caches only. Exits with 0 if everything is
    as it was written, with 1 if anything is damaged, and with 2 if there is nothing to verify at a
    path; the others are still verified. With ``--json``, prints one JSON object for each.
    """
    _verify(words, examine_path, of_caches=False)


@reported_errors()
def verify_caches(words: Sequence[str]) -> None:
    """Verify caches only; see ``regionspot cache verify --help``."""
    show_progress()
    _verify(words, examine_cache, of_caches=True)


def _verify(
    words: Sequence[str], examine: Callable[[str], list[VerifyReport]], *, of_caches: bool
) -> None:
    name, what, prog = (
        ("caches", "feature caches", "regionspot cache verify")
        if of_caches
        else ("paths", "caches, region indices, heads, checkpoints or runs", "regionspot verify")
    )
    options = parse_paths(words, name, what=what, prog=prog, about=verify_paths.__doc__)
    is_single = len(options[name]) == 1

    def examine_and_print(path: str) -> list[VerifyReport]:
        found = examine(path)
        for report in found:
            if options.json:
                print(report.to_json(of_caches=of_caches))
                continue
            for problem in report.problems:
                print(describe_problem(report.path, problem))
            if is_single:
                problems = f"{len(report.problems)} problems"
                print(f"{report.path}: {'whole' if report.is_whole else problems}")
        return found

    by_path, has_failed = examine_each(options[name], examine_and_print)
    reports = [report for found in by_path for report in found]
    if reports and not is_single and not options.json:
        header = ("cache" if of_caches else "path", "problems", "damaged shards", "verdict")
        print(table(header, [report.row() for report in reports]))
    if has_failed:
        raise SystemExit(2)
    if not all(report.is_whole for report in reports):
        raise SystemExit(1)


def examine_path(path: str) -> list[VerifyReport]:
    """Verify whatever is at a path; of a run, its head and every checkpoint.

    Raises:
        MissingFileError: There is nothing to verify.
        RegionSpotError: A cache cannot be read at all.
    """
    folder = Path(path)
    if is_url(path) or manifest_path(folder).is_file() or shards_path(folder).is_dir():
        return examine_cache(path)
    # Imported here, since torch takes seconds, and caches do not need it.
    from regionspot.inference import find_damage, has_index
    from regionspot.model import CHECKPOINT_SUFFIX, RUN_FOLDER, WEIGHTS_SUFFIX

    if has_index(folder):
        problems = [Problem(message=message) for message in find_damage(folder)]
        return [VerifyReport(path=path, kind="index", is_whole=not problems, problems=problems)]
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
            f"there is no cache, region index, head or checkpoint at {path}. Give the folder of one"
            f" or of a run, a {CHECKPOINT_SUFFIX} or {WEIGHTS_SUFFIX} file, or the URL of a cache."
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


def describe_problem(cache: str, problem: Problem) -> str:
    """Describe in one line what is damaged, and where."""
    if problem.shard is None:
        return problem.message
    parts = [f"{cache}/{tar_name(problem.shard)}"]
    parts += [f"image {problem.key}"] if problem.key else []
    parts += [problem.member] if problem.member else []
    parts += [f"byte {problem.offset}"] if problem.offset is not None else []
    return f"{', '.join(parts)}: {problem.message}"


# --- Commands on several caches --------------------------------------------------------------


def parse_paths(
    words: Sequence[str],
    name: str = "caches",
    *,
    prog: str,
    about: str | None,
    what: str = "feature caches",
    flags: Mapping[str, str] | None = None,
) -> Namespace:
    """Parse the words of a command that takes paths, ``--json`` and these flags (name: help)."""
    parser = CommandParser(prog=prog, description=about)
    parser.add_argument(name, nargs="+", type=str, help=f"Folders, files or URLs of {what}.")
    for flag, text in {**(flags or {}), "--json": "Print JSON."}.items():
        parser.add_argument(flag, action="store_true", help=text)
    return parser.parse_args(list(words))


def examine_each(
    caches: Sequence[str], examine: Callable[[str], Report]
) -> tuple[list[Report], bool]:
    """Examine caches one after another, continuing after those that cannot be read.

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
    """Format a table with the first column left-aligned and the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for name, *values in (header, *rows):
        cells = [name.ljust(widths[0])]
        cells += [value.rjust(width) for value, width in zip(values, widths[1:], strict=True)]
        lines.append("  ".join(cells))
    return "\n".join(lines)
