"""Finds the files of cached images: a cache stores keys, not paths."""

import os
from collections.abc import Sequence
from pathlib import Path

from regionspot.annotations import image_key
from regionspot.core.errors import MissingFileError
from regionspot.inference.region_index import Hit


def find_images(images_dir: Path, hits: Sequence[Hit]) -> dict[str, Path]:
    """Return the file of each hit's image, by its key.

    A file is that of a key if `image_key` makes the key of its path below the folder, or if it is
    the only one whose name without suffix is the key, as in COCO and OpenImages.

    Args:
        images_dir: The folder of the images; it is searched with the folders in it.
        hits: The hits.

    Raises:
        MissingFileError: The folder does not exist, or there is no file of an image.
    """
    if not images_dir.is_dir():
        raise MissingFileError(f"no folder at {images_dir}: check --images_dir.")
    wanted = {hit.key for hit in hits}
    of_paths: dict[str, Path] = {}
    of_stems: dict[str, list[Path]] = {}
    for folder, _, names in os.walk(images_dir):
        for name in names:
            path = Path(folder) / name
            if path.stem in wanted:
                of_stems.setdefault(path.stem, []).append(path)
            key = image_key(path.relative_to(images_dir).as_posix())
            if key in wanted:
                of_paths[key] = path
    found = {key: paths[0] for key, paths in of_stems.items() if len(paths) == 1} | of_paths
    if missing := sorted(wanted - set(found)):
        raise MissingFileError(
            f"{images_dir} has no image of the key {missing[0]!r} ({len(missing)} of {len(wanted)}"
            " images are missing): give the folder that the cache was made from, --images_dir."
        )
    return found
