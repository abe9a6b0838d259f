"""``regionspot toy``: generate the toy world."""

import os
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from regionspot.cli.options import CommandParser
from regionspot.cli.run import reported_errors


@reported_errors()
def generate_toy_world(words: Sequence[str]) -> None:
    """Generate the toy world, images with annotations in the LVIS format.

    Does nothing if the folder already holds the world of the same options.
    """
    parser = CommandParser(prog="regionspot toy", description=generate_toy_world.__doc__)
    parser.add_argument(
        "--output_dir", type=str, default="runs/toy/world", help="Folder to write the world to."
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="Random seed, which determines the whole world."
    )
    parser.add_argument("--num_val", type=int, default=500, help="Number of validation images.")
    parser.add_argument(
        "--num_train",
        type=int,
        default=1200,
        help="Number of images in each of the three training data sets.",
    )
    parser.add_argument(
        "--jitter",
        type=list[int],
        default=[],
        help="Also write the validation boxes with each side moved at random by up to this percent"
        " of the box's width or height, such as '[10, 20]', to val_jittered_<percent>.json: COCO"
        " results, for --proposals.path of the cache command.",
    )
    options = parser.parse_args(words)
    from regionspot.toy import (
        WorldArguments,
        generate_world,
        world_is_complete,
        write_jittered_boxes,
    )

    output_dir = Path(options.output_dir)
    numbers = {name: options[name] for name in ("seed", "num_val", "num_train")}
    if world_is_complete(output_dir, WorldArguments(**numbers)):
        print(f"{output_dir} already holds this world")
    else:
        with tqdm(unit=" images", disable=None) as bar:

            def show(num_done: int, num_images: int) -> None:
                bar.total = num_images
                bar.update(num_done - bar.n)

            generate_world(
                output_dir, **numbers, num_processes=os.cpu_count() or 1, on_progress=show
            )
        print(f"the world with seed {options.seed} is in {output_dir}")
    for percent in options.jitter:
        path = output_dir / f"val_jittered_{percent}.json"
        write_jittered_boxes(output_dir / "val.json", path, percent=percent)
