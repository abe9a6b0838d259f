"""Sample files in the data sets' own formats: ours, and the genuine ones where they lie here."""

from collections.abc import Sequence
from pathlib import Path

import pytest

OURS = Path(__file__).parents[1] / "data"
GENUINE = Path(__file__).parents[3] / "shared" / "data"


def sample_files(*rows: tuple[Path, *tuple[object, ...]]) -> Sequence[object]:
    """Return the rows of ``pytest.mark.parametrize`` whose file, their first value, is here.

    Ours always are. Genuine ones may not be copied into the project, so they are tests more on a
    machine that has them, and no tests on others: nothing is skipped for want of a file.
    """
    params = []
    for path, *expected in rows:
        folder = OURS if path.is_relative_to(OURS) else GENUINE
        if folder == OURS or path.is_file():
            name = f"{'ours' if folder == OURS else 'genuine'}-{path.relative_to(folder)}"
            params.append(pytest.param(path, *expected, id=name))
    return params


# Two smaller than SAM's frame, and two that are larger.
PHOTOS = sample_files(
    (OURS / "photos/000000031001.jpg",),
    (OURS / "photos/000000031002.jpg",),
    (GENUINE / "coco/000000142238.jpg",),
    (GENUINE / "sam_truck.jpg",),
)
