"""The code that runs on the machines of a cluster: one copy of the models, one shard at a time."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch

from regionspot.annotations import AnnotatedImages
from regionspot.cache import check_same_manifest, manifest_path, read_manifest, sharing_writer
from regionspot.core.errors import MissingFileError, RegionSpotError
from regionspot.extraction.config import CacheConfig
from regionspot.extraction.errors import disk_errors_explained
from regionspot.extraction.job import CacheJob
from regionspot.extraction.summary import WriteCounts
from regionspot.extraction.writing import write_claimed

_RETRY_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerAnswer:
    """The result of a request to a worker."""

    where: str
    """Machine and process."""
    counts: WriteCounts = field(default_factory=WriteCounts)
    """What the worker wrote."""


class ShardWorker:
    """Writes shards of a begun cache; needs `prepare` first.

    Args:
        config: What to cache, and where.
        annotated: Its annotations, already read.
        folder: Folder that its relative paths refer to.
        num_threads: Number of torch threads, and of images decoded at once.
    """

    def __init__(
        self, config: CacheConfig, annotated: AnnotatedImages, *, folder: Path, num_threads: int
    ) -> None:
        self._config, self._annotated = config, annotated
        self._output_dir = Path(config.output_dir)
        self._where = f"{socket.gethostname()}, process {os.getpid()}"
        torch.set_num_threads(num_threads)
        # Absolute paths also work on a machine without that folder.
        with suppress(OSError):
            os.chdir(folder)

    def prepare(self) -> WorkerAnswer:
        """Load the models; from a constructor, Ray would wrap the errors."""
        with self._errors_located():
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
        """Write a shard, unless it exists or another process is writing it.

        In the latter case the shard is still missing afterwards, and the caller has to retry.
        """
        with (
            self._errors_located(),
            disk_errors_explained(self._output_dir),
            sharing_writer(self._output_dir),
        ):
            counts = write_claimed(self._job, [shard], done=())
        if not counts.num_new_images and not self._job.destination.is_done(shard):
            time.sleep(_RETRY_S)
        return WorkerAnswer(where=self._where, counts=counts)

    @contextmanager
    def _errors_located(self) -> Iterator[None]:
        """Add the machine to an error, as other machines may have other files."""
        try:
            yield
        except RegionSpotError as error:
            error.add_note(self._where)
            raise
