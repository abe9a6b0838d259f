"""``regionspot cache verify``: read every byte of caches and name all damage.

Exits with 0 if all is as it was written, with 1 if anything is not, and with 2 if a cache cannot be
read at all (then the others are verified nevertheless). With ``--json`` one JSON object a cache.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from jsonargparse import ArgumentParser

from regionspot.cache import Problem, tar_name, verify_cache
from regionspot.cli.errors import run_cli
from regionspot.cli.several_caches import examine_each, table


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What was found in a cache; the fields are the keys of ``regionspot cache verify --json``."""

    cache_dir: str
    """Folder of the cache."""
    is_whole: bool
    """Whether all is as it was written."""
    problems: list[Problem]
    """What is not; keys as the fields of `Problem`."""

    def to_json(self) -> str:
        """Return the fields as a JSON object."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)

    @property
    def damaged_shards(self) -> set[int]:
        """Shards that ``repair`` would make again."""
        return {problem.shard for problem in self.problems if problem.shard is not None}


def main(args: Sequence[str]) -> None:
    """Verify caches; see ``regionspot cache verify --help``."""
    parser = ArgumentParser(prog="regionspot cache verify", description=__doc__)
    parser.add_argument("caches", nargs="+", type=str, help="Folders or URLs of feature caches.")
    parser.add_argument("--json", action="store_true", help="Write JSON for machines.")
    options = parser.parse_args(list(args))
    run_cli(lambda: _verify(options.caches, as_json=options.json))


def _verify(caches: Sequence[str], *, as_json: bool) -> None:
    def examine(cache: str) -> VerifyReport:
        problems = verify_cache(cache)
        report = VerifyReport(cache_dir=cache, is_whole=not problems, problems=problems)
        if as_json:
            print(report.to_json())
            return report
        for problem in problems:
            print(describe_problem(cache, problem))
        if len(caches) == 1:
            print(f"{cache}: {f'{len(problems)} problems' if problems else 'whole'}")
        return report

    reports, has_failed = examine_each(caches, examine)
    if len(caches) > 1 and reports and not as_json:
        print(table(("cache", "problems", "damaged shards", "verdict"), list(map(_row, reports))))
    if has_failed:
        raise SystemExit(2)
    if not all(report.is_whole for report in reports):
        raise SystemExit(1)


def _row(report: VerifyReport) -> tuple[str, ...]:
    counts = (f"{len(report.problems):,}", f"{len(report.damaged_shards):,}")
    return report.cache_dir, *counts, "whole" if report.is_whole else "damaged"


def describe_problem(cache: str, problem: Problem) -> str:
    """Say in one line what is damaged, and where."""
    if problem.shard is None:
        return problem.message
    parts = [f"{cache}/{tar_name(problem.shard)}"]
    parts += [f"image {problem.key}"] if problem.key else []
    parts += [problem.member] if problem.member else []
    parts += [f"byte {problem.offset}"] if problem.offset is not None else []
    return f"{', '.join(parts)}: {problem.message}"
