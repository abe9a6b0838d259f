"""Small worlds and pools that several tests look at; none of them changes what it is given."""

from pathlib import Path

import pytest

from regionspot.toy.pool import Pool, generate_pool, open_pool
from regionspot.toy.world import generate_world

NUM_VAL, NUM_TRAIN = 15, 12


@pytest.fixture(scope="session")
def world_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    generate_world(folder, seed=3, num_val=NUM_VAL, num_train=NUM_TRAIN)
    return folder


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    folder = tmp_path_factory.mktemp("pool")
    generate_pool(folder, num_images=100, seed=5)
    return open_pool(folder)
