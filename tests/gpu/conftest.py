"""These tests need a GPU and fail without one; ``make bench-gpu`` runs them."""

from pathlib import Path

import pytest
import torch
from common.made_up_cache import write_cache


@pytest.fixture(autouse=True, scope="session")
def gpu() -> None:
    """Say at once what is missing."""
    if not torch.cuda.is_available():
        pytest.fail("pytest -m gpu wants a CUDA device, and torch sees none here")


@pytest.fixture(scope="session")
def bl_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache at BL's sizes: its batches are large enough that a copy takes a while."""
    folder = tmp_path_factory.mktemp("bl")
    write_cache(folder, 64, num_classes=20)
    return folder
