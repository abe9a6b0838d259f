"""``regionspot toy``: generate the embedded toy world, images and LVIS-format annotations."""

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from regionspot.cli.errors import run_cli


def main(args: Sequence[str] | None = None) -> None:
    """Generate a toy world; see ``regionspot toy --help``."""
    parser = ArgumentParser(prog="regionspot toy", description=__doc__)
    parser.add_argument("--output_dir", type=str, default="runs/toy/world")
    parser.add_argument(
        "--seed", type=int, default=1, help="Which world: all of it follows from this number."
    )
    options = parser.parse_args(args)

    def generate() -> None:
        from regionspot.toy import generate_world

        generate_world(Path(options.output_dir), seed=options.seed)

    run_cli(generate)
