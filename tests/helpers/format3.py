"""A cache in format 3, as an older RegionSpot wrote it: that of ``tests/unit/cache/conftest.py``."""

import zipfile
from pathlib import Path

ZIPPED = Path(__file__).parents[1] / "data" / "caches" / "format3.zip"


def unpack_format3(folder: Path) -> Path:
    """Unpack the cache into a folder, and return it."""
    with zipfile.ZipFile(ZIPPED) as file:
        file.extractall(folder)
    return folder
