from pathlib import Path

import pytest

from helpers.processes import Fork
from helpers.writers import write_nothing
from regionspot.cache import exclusive_writer
from regionspot.core.errors import ConfigError


def test_a_second_writer_is_refused_until_the_first_is_done(tmp_path: Path) -> None:
    folder = tmp_path / "cache"

    def other_process() -> int:
        return Fork(write_nothing, folder).ended()[0]

    with exclusive_writer(folder):
        assert other_process() == 3
        with (
            pytest.raises(ConfigError, match="another process is writing"),
            exclusive_writer(folder),
        ):
            pass
    assert other_process() == 0
    assert list(folder.iterdir()) == []
