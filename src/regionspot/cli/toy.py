"""Generate the toy world."""

import os
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser
from tqdm import tqdm

from regionspot.cli.run import run_cli


def generate_toy_world(words: Sequence[str]) -> None:
    """``regionspot toy``: generate the embedded toy world, images and LVIS-format annotations.

    A world that is already there, made with the same arguments, is not generated again.
    """
    parser = ArgumentParser(prog="regionspot toy", description=generate_toy_world.__doc__)
    parser.add_argument("--output_dir", type=str, default="runs/toy/world")
    parser.add_argument(
        "--seed", type=int, default=1, help="Which world: all of it follows from this number."
    )
    parser.add_argument("--num_val", type=int, default=500, help="Images of val.")
    parser.add_argument(
        "--num_train", type=int, default=1200, help="Images of each of the three training sources."
    )
    options = parser.parse_args(words)
    run_cli(
        lambda: _generate(
            Path(options.output_dir),
            seed=options.seed,
            num_val=options.num_val,
            num_train=options.num_train,
        )
    )


def _generate(output_dir: Path, *, seed: int, num_val: int, num_train: int) -> None:
    from regionspot.toy import WorldArguments, generate_world, world_is_complete

    arguments = WorldArguments(seed=seed, num_val=num_val, num_train=num_train)
    if world_is_complete(output_dir, arguments):
        print(f"{output_dir} is this world already")
        return
    with tqdm(unit=" images", disable=None) as bar:

        def show(num_done: int, num_images: int) -> None:
            bar.total = num_images
            bar.update(num_done - bar.n)

        generate_world(
            output_dir,
            seed=seed,
            num_val=num_val,
            num_train=num_train,
            num_processes=os.cpu_count() or 1,
            on_progress=show,
        )
    print(f"the world with the seed {seed} is in {output_dir}")
