"""The options of ``cache_features.py --executor ray``."""

import re
from dataclasses import dataclass

from regionspot.core.errors import ConfigError

AUTO = "auto"

_HOST_PORT = re.compile(r"[^\s/]+:\d{1,5}")


@dataclass(frozen=True, kw_only=True)  # no slots: jsonargparse reads a default's vars()
class RayConfig:
    """Where the Ray cluster is, and what its workers get. A worker has one copy of the models.

    Raises:
        ConfigError: The address is none, or a number is out of its range.
    """

    address: str = AUTO
    """The running cluster: auto finds the one that this machine belongs to (or the one that the
    environment variable RAY_ADDRESS names); or its head's host:port."""
    num_workers: int | None = None
    """Workers; by default as many as the cluster has room for."""
    cpus_per_worker: int | None = None
    """CPU cores, and threads, of a worker; by default those that belong to a GPU on the machine
    that has fewest, without GPUs all of the smallest machine. The number of threads may change the
    last bit of what a CPU computes."""
    gpus_per_worker: float | None = None
    """GPUs of a worker; by default 1 where the cluster has any, and 0 with --device cpu. 0.5 puts
    two workers on one."""

    def __post_init__(self) -> None:
        if self.address != AUTO and _HOST_PORT.fullmatch(self.address) is None:
            raise ConfigError(
                f"--ray.address is {self.address!r}; wanted auto, or host:port of the cluster's"
                " head, such as 10.0.0.1:6379, on a machine of the cluster (ray:// is for machines"
                " outside, which cannot write to its disk)."
            )
        for name in ("num_workers", "cpus_per_worker"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--ray.{name} is {value}; wanted 1 or more.")
        if self.gpus_per_worker is not None and self.gpus_per_worker < 0:
            raise ConfigError(f"--ray.gpus_per_worker is {self.gpus_per_worker}; wanted 0 or more.")
