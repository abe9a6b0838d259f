"""The project stands alone: its tests and texts need nothing that a clone does not have."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.make import odd_images, texts
from helpers.samples import OURS

ODD = dict(odd_images())
ROOT = Path(__file__).parents[2]
# A folder beside the checkout, and tests that are skipped because a file is not there.
NEEDS_MORE = re.compile(
    r"\.\./shared|\bshared\W{1,5}data\b|skipif\(\s*not [^)]*\b(DATA|is_file|is_dir)\b"
)


OURS_TO_READ = ("*.md", "*.py", "Makefile", "docs/**/*.md", "configs/**/*.yaml", "src/**/*.py")


def test_nothing_depends_on_files_beside_the_checkout() -> None:
    found = [
        path.relative_to(ROOT).as_posix()
        for pattern in (*OURS_TO_READ, "tests/**/*.py", "benchmarks/*.py")
        for path in ROOT.glob(pattern)
        if NEEDS_MORE.search(path.read_text(encoding="utf-8"))
    ]
    # The one place that adds genuine files to ours where they are.
    assert found == ["tests/helpers/samples.py"]


@pytest.mark.parametrize(("path", "content"), texts().items(), ids=texts())
def test_a_sample_file_is_what_its_script_makes(path: str, content: bytes) -> None:
    assert (OURS / path).read_bytes() == content


@pytest.mark.parametrize(("name", "content"), ODD.items(), ids=ODD)
def test_an_odd_image_is_what_its_script_makes(name: str, content: bytes) -> None:
    stored = (OURS / "odd_images" / name).read_bytes()
    if stored == content:
        return
    # Another release of Pillow may pack the same pixels in other bytes.
    theirs, ours = (np.asarray(Image.open(io.BytesIO(data)), int) for data in (stored, content))
    np.testing.assert_allclose(ours, theirs, atol=2)
