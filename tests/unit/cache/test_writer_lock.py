import subprocess
import sys
from pathlib import Path

import pytest

from regionspot.cache import exclusive_writer
from regionspot.core.errors import ConfigError

TRY = """
import sys
from pathlib import Path
from regionspot.cache.writer_lock import exclusive_writer
from regionspot.core.errors import ConfigError
try:
    with exclusive_writer(Path(sys.argv[1])):
        sys.exit(0)
except ConfigError:
    sys.exit(3)
"""


def test_a_second_writer_is_refused_until_the_first_is_done(tmp_path: Path) -> None:
    folder = tmp_path / "cache"

    def other_process() -> int:
        return subprocess.run([sys.executable, "-c", TRY, str(folder)], check=False).returncode

    with exclusive_writer(folder):
        assert other_process() == 3
        with (
            pytest.raises(ConfigError, match="another process is writing"),
            exclusive_writer(folder),
        ):
            pass
    assert other_process() == 0
    assert list(folder.iterdir()) == []
