"""A small world that several tests look at; none of them changes it."""

from pathlib import Path

import pytest

from regionspot.toy import generate_world

NUM_VAL, NUM_TRAIN = 15, 12


@pytest.fixture(scope="session")
def world_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    generate_world(folder, seed=3, num_val=NUM_VAL, num_train=NUM_TRAIN)
    return folder
