"""``regionspot cache verify``: read every byte of caches and name all damage.

Exits with 0 if all is as it was written, and with 1 if anything is not.
"""

from collections.abc import Sequence

from jsonargparse import ArgumentParser

from regionspot.cache import Problem, tar_name, verify_cache
from regionspot.cli.errors import run_cli


def main(args: Sequence[str]) -> None:
    """Verify caches; see ``regionspot cache verify --help``."""
    parser = ArgumentParser(prog="regionspot cache verify", description=__doc__)
    parser.add_argument("caches", nargs="+", type=str, help="Folders or URLs of feature caches.")
    options = parser.parse_args(list(args))
    run_cli(lambda: _verify(options.caches))


def _verify(caches: Sequence[str]) -> None:
    num_problems = 0
    for cache in caches:
        problems = verify_cache(cache)
        num_problems += len(problems)
        for problem in problems:
            print(describe_problem(cache, problem))
        print(f"{cache}: {f'{len(problems)} problems' if problems else 'whole'}")
    if num_problems:
        raise SystemExit(1)


def describe_problem(cache: str, problem: Problem) -> str:
    """Say in one line what is damaged, and where."""
    if problem.shard is None:
        return problem.message
    parts = [f"{cache}/{tar_name(problem.shard)}"]
    parts += [f"image {problem.key}"] if problem.key else []
    parts += [problem.member] if problem.member else []
    parts += [f"byte {problem.offset}"] if problem.offset is not None else []
    return f"{', '.join(parts)}: {problem.message}"
