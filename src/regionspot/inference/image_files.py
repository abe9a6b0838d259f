"""Where the image files of a cache are, below the folder of the images.

Caches store file names from format 4 on. Older ones store keys only, of which those made from CSV
and some other formats are made from the path.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from regionspot.annotations import image_file_name, image_key
from regionspot.cache import FeatureCache
from regionspot.core.errors import ConfigError, MissingFileError


def stored_file_name(cache: FeatureCache, position: int) -> str | None:
    """Return the file of an image, relative to the folder of the images; None if it is unknown.

    Raises:
        CacheCorruptError: A shard is damaged.
    """
    return cache.details(position).file_name or image_file_name(cache.index.key(position))


def find_images(images_dir: Path, file_names: Mapping[str, str | None]) -> dict[str, Path]:
    """Return the file of each image, by its key.

    Args:
        images_dir: The folder of the images.
        file_names: The file of each image by its key, relative to the folder. If it is unknown, the
            folder and those in it are searched: for the only file whose name without suffix is the
            key, as in COCO and OpenImages, or of whose path `image_key` makes the key.

    Raises:
        MissingFileError: The folder does not exist, or there is no file of an image.
    """
    if not images_dir.is_dir():
        raise MissingFileError(f"no folder at {images_dir}: check --images_dir.")
    unknown = {key for key, name in file_names.items() if name is None}
    found = _found_by_key(images_dir, unknown) if unknown else {}
    for key, name in file_names.items():
        if name is not None and (path := images_dir / name).is_file():
            found[key] = path
    if missing := [key for key in file_names if key not in found]:
        raise MissingFileError(
            f"{images_dir} lacks {len(missing):,} of {len(file_names):,} images, such as that of"
            f" the key {missing[0]!r}. Set --images_dir to the folder that the cache was made from."
        )
    return found


def find_all_images(cache: FeatureCache, images_dir: Path) -> dict[int, Path]:
    """Return the file of every image of a cache, by image id, without its annotation file.

    Raises:
        ConfigError: The cache is older than format 4 and was not made from CSV.
        MissingFileError: The folder does not exist, or lacks images.
        CacheCorruptError: A shard is damaged.
    """
    found_format = cache.manifest.annotation_format
    if not cache.has_predicted_iou and found_format != "csv":
        raise ConfigError(
            f"{cache.location} was made from {found_format} annotations by an older version and"
            " does not know the names of its image files. Set --annotations to that file beside"
            " --images_dir; the figures stay those of the regions in the cache."
        )
    keys = [cache.index.key(position) for position in range(len(cache))]
    names = {key: stored_file_name(cache, position) for position, key in enumerate(keys)}
    found = find_images(images_dir, names)
    return {int(cache.index.image_ids[position]): found[key] for position, key in enumerate(keys)}


def _found_by_key(images_dir: Path, wanted: set[str]) -> dict[str, Path]:
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
    return {key: paths[0] for key, paths in of_stems.items() if len(paths) == 1} | of_paths
