"""Where the image files of a cache are, below the folder of the images."""

from collections.abc import Mapping
from pathlib import Path

from regionspot.annotations import AnnotatedImages, image_key
from regionspot.cache import FeatureCache
from regionspot.core.errors import ConfigError, MissingFileError


def annotated_files(annotated: AnnotatedImages, images_dir: Path) -> Mapping[int, Path]:
    """Return the file of every annotated image, by image id."""
    return {record.image_id: images_dir / record.file_name for record in annotated.records}


def cached_files(cache: FeatureCache, images_dir: Path) -> Mapping[int, Path]:
    """Return the file of every image of a cache, by image id, without its annotation file.

    Caches from version 4 of the format on store file names. In older ones made from CSV, the key of
    an image is made from the path of its file.

    Raises:
        ConfigError: The cache is older and made from another format.
        MissingFileError: The folder lacks images.
        CacheCorruptError: A shard is damaged.
    """
    names = _stored_names(cache) if cache.has_predicted_iou else _names_by_key(cache, images_dir)
    index = cache.index
    paths = {
        int(index.image_ids[position]): None if name is None else images_dir / name
        for position, name in enumerate(names)
    }
    found = {
        image_id: path for image_id, path in paths.items() if path is not None and path.is_file()
    }
    if len(found) < len(paths):
        raise MissingFileError(
            f"{images_dir} lacks {len(paths) - len(found):,} of the {len(paths):,} images of"
            f" {cache.location}. Set --images_dir to the folder that the cache was made from."
        )
    return found


def _stored_names(cache: FeatureCache) -> list[str | None]:
    return [cache.details(position).file_name for position in range(len(cache))]


def _names_by_key(cache: FeatureCache, images_dir: Path) -> list[str | None]:
    found = cache.manifest.annotation_format
    if found != "csv":
        raise ConfigError(
            f"{cache.location} was made from {found} annotations by an older version and does not"
            " know the names of its image files. Set --annotations to that file beside"
            " --images_dir; the figures stay those of the regions in the cache."
        )
    relative = (path.relative_to(images_dir) for path in images_dir.rglob("*") if path.is_file())
    by_key = {image_key(path.as_posix()): path.as_posix() for path in relative}
    return [by_key.get(cache.index.key(position)) for position in range(len(cache))]
