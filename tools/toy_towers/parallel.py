"""Data-parallel training by hand: a few processes, one thread each, gradients averaged by gloo.

On a few CPU cores this is faster than one process with as many threads, as the towers' matrices
are small. Plain ``DistributedDataParallel`` hooks into a module's own forward, but the towers are
called by their parts.
"""

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """The processes that train one model together."""

    rank: int
    """Number of this process, from 0."""
    size: int
    """Number of processes."""

    @property
    def is_lead(self) -> bool:
        """Whether this process is the one that logs and writes files."""
        return self.rank == 0

    def average_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replace each gradient by its mean over the crew, in one message.

        Args:
            parameters: Parameters in the same order everywhere; missing gradients count as zero.
        """
        if self.size == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        dist.all_reduce(flat)
        flat /= self.size
        for grad, mean in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
            grad.copy_(mean.view_as(grad))

    def wait(self) -> None:
        """Wait until every process of the crew is here."""
        if self.size > 1:
            dist.barrier()


def run_ranks(work: Callable[[Ranks], None], *, size: int) -> None:
    """Run ``work`` in ``size`` processes and wait for all of them.

    Args:
        work: Called once in each process; has to be picklable when ``size > 1``.
        size: Number of processes; 1 runs in this process, with the threads that it has.
    """
    if size == 1:
        work(Ranks(rank=0, size=1))
        return
    with tempfile.TemporaryDirectory() as folder:
        spawn(_join, args=(work, size, Path(folder) / "meeting_point"), nprocs=size)


def _join(rank: int, work: Callable[[Ranks], None], size: int, meeting_point: Path) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting_point}", rank=rank, world_size=size
    )
    try:
        work(Ranks(rank=rank, size=size))
    finally:
        dist.destroy_process_group()
