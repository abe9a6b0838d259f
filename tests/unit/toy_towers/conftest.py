"""A small pool that several tests look at; none of them changes it."""

import pytest

from toy_towers.pool import Pool, generate_pool, open_pool


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    folder = tmp_path_factory.mktemp("pool")
    generate_pool(folder, num_images=100, seed=5)
    return open_pool(folder)
