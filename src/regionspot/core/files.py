"""Questions about files that are asked of whatever a person typed."""

import os
from pathlib import Path


def is_file(path: str | Path) -> bool:
    """Say whether there is a file at a path.

    ``Path.is_file`` raises for names that are too long for any file; here there is just none.
    """
    return os.path.isfile(path)  # noqa: PTH113
