"""What a process of its own does to a cache; see `helpers.processes.Fork`."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from regionspot.cache import CachedSample, FeatureCache, exclusive_writer, write_shard
from regionspot.core.errors import ConfigError


def write_nothing(folder: Path) -> None:
    """Be the one writer of a folder for a moment, or exit with 3 if it has another."""
    try:
        with exclusive_writer(folder):
            pass
    except ConfigError:
        sys.exit(3)


def die_in_shard_1(folder: Path) -> None:
    """Die while the second shard is written again."""
    sample = FeatureCache.open(folder).sample(3)

    def samples() -> Iterator[CachedSample]:
        yield sample
        os.kill(os.getpid(), signal.SIGKILL)

    write_shard(folder, 1, samples())
