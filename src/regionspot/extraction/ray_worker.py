"""What runs on the machines of a cluster: one copy of the models, writing shard after shard."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from regionspot.annotations import AnnotatedImages
from regionspot.cache import (
    check_same_manifest,
    manifest_path,
    read_manifest,
    sharing_writer,
)
from regionspot.core.errors import MissingFileError, RegionSpotError
from regionspot.extraction.claims import ShardClaims
from regionspot.extraction.config import CacheConfig
from regionspot.extraction.errors import told_disk_errors
from regionspot.extraction.job import CacheJob
from regionspot.extraction.writing import ShardsWriter

_RETRY_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerAnswer:
    """What a worker says when it has done what it was asked for."""

    where: str
    """Machine and process."""
    num_reused_maps: int = 0
    """Feature maps that it took over from another cache."""
    num_reused_tokens: int = 0
    """Position tokens that it took over."""
    num_ignored_orientations: int = 0
    """Images of the shard with an EXIF orientation that was ignored."""


class ShardWorker:
    """Writes shards of a begun cache; needs `prepare` first.

    Args:
        config: What to cache, and where.
        annotated: The annotations that it names, read already.
        folder: What its relative paths are relative to.
        num_threads: Threads of torch, and images decoded at once.
    """

    def __init__(
        self, config: CacheConfig, annotated: AnnotatedImages, *, folder: Path, num_threads: int
    ) -> None:
        self._config, self._annotated = config, annotated
        self._output_dir = Path(config.output_dir)
        self._where = f"{socket.gethostname()}, process {os.getpid()}"
        torch.set_num_threads(num_threads)
        # A machine without that folder can do with paths that are absolute.
        with suppress(OSError):
            os.chdir(folder)

    def prepare(self) -> WorkerAnswer:
        """Load the models.

        That is no part of the constructor, whose errors Ray would not pass on as they are.

        Raises:
            MissingFileError: The cache, or a weights file, is not to be seen from this machine.
            CacheMismatchError: The weights are others here.
            RegionSpotError: As for `CacheJob`.
        """
        with self._telling_where():
            manifest = manifest_path(self._output_dir).absolute()
            if not manifest.exists():
                raise MissingFileError(
                    f"{socket.gethostname()} does not see {manifest}, which the run has written."
                    " Set --output_dir to a folder that all machines of the cluster share."
                )
            job = CacheJob(self._config, annotated=self._annotated)
            check_same_manifest(read_manifest(self._output_dir), job.manifest)
            self._job = job
        return WorkerAnswer(where=self._where)

    def write(self, shard: int) -> WorkerAnswer:
        """Write a shard, unless it is there or another process is at it.

        Who asked is to look whether the shard is there afterwards, and to ask again if not.

        Raises:
            RegionSpotError: As for `ShardsWriter`.
            DiskError: The folder cannot be written to, or its disk is full.
        """
        writer, jobs = ShardsWriter(self._job), self._job.shard_jobs([shard])
        with (
            self._telling_where(),
            told_disk_errors(self._output_dir),
            sharing_writer(self._output_dir),
            ShardClaims(self._job.destination) as claims,
        ):
            num_written = writer.write(claims.claimed(jobs), done=(), after_shard=claims.done)
        if not num_written and not self._job.destination.is_done(shard):
            time.sleep(_RETRY_S)
        return WorkerAnswer(
            where=self._where,
            num_reused_maps=writer.num_reused_maps,
            num_reused_tokens=writer.num_reused_tokens,
            num_ignored_orientations=writer.num_ignored_orientations,
        )

    @contextmanager
    def _telling_where(self) -> Iterator[None]:
        """Note on an error which machine it is about: its files may be others."""
        try:
            yield
        except RegionSpotError as error:
            error.add_note(self._where)
            raise
