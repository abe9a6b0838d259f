"""The list of the images that a cache does not hold, ``quarantine.jsonl``."""

from pathlib import Path

from regionspot.cache.layout import CACHE_COMMAND, quarantine_path
from regionspot.cache.regular_files import open_regular
from regionspot.cache.sidecar import QuarantinedImage
from regionspot.core.errors import CacheCorruptError
from regionspot.core.json_text import load_json
from regionspot.core.shown import shown


def read_quarantine(cache_dir: Path) -> tuple[QuarantinedImage, ...]:
    """Return the images that could not be used, in the order of the plan; none without a list.

    The list is not sealed: `verify_cache` compares it with the sidecars.

    Raises:
        CacheCorruptError: The list is not what this library writes; names the line.
    """
    path = quarantine_path(cache_dir)
    try:
        with open_regular(path) as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        return ()
    return tuple(_image(line, f"{path}, line {number}") for number, line in enumerate(lines, 1))


def _image(line: bytes, place: str) -> QuarantinedImage:
    try:
        row = load_json(line)
    except ValueError as error:
        raise CacheCorruptError(f"{place} is not JSON ({error}). {_REMEDY}") from error
    if isinstance(row, dict):
        key, image_id, file_name, reason = map(row.get, ("key", "image_id", "file_name", "reason"))
        texts = (key, file_name, reason)
        if type(image_id) is int and all(isinstance(text, str) for text in texts):
            return QuarantinedImage(
                key=str(key), image_id=image_id, file_name=str(file_name), reason=str(reason)
            )
    raise CacheCorruptError(f"{place} is {shown(row)}; wanted an image with a reason. {_REMEDY}")


_REMEDY = f"Write the list again, with the index: {CACHE_COMMAND}"
