"""An end to training as soon as its loss is no number any more, before anything of it is saved."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from typing_extensions import override

from regionspot.core import waiting
from regionspot.core.errors import NotFiniteError
from regionspot.data import CachedRegions, RegionBatch

_BATCHES_BETWEEN_LOOKS = 16
_ADVICE = (
    "Look at the learning rate and its warm-up (model.optimizer.lr, model.schedule), at"
    " trainer.precision (32-true is the safest) and at the cache (`regionspot cache verify {}`)."
    " Checkpoints of this run are from before; go on from one with --ckpt_path, or start again."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """What is kept of a batch until its loss is looked at."""

    step: int
    """Optimizer steps taken when it ended."""
    keys: tuple[str, ...]
    """Images of this rank."""
    source: int
    """The cache they are from."""
    loss: Tensor
    """Loss of this rank, a scalar on its device."""


class FiniteLoss(pl.Callback):
    """Ends training when a loss is NaN or infinite, and names the images of the batch.

    On a CPU every batch is looked at when it ends. On a GPU a look waits until the device has
    caught up, so that losses are kept and looked at together: every few batches, before a
    checkpoint is written, and at the end. The ranks look together and stop together, at the cost
    of one sum of a few bytes over all ranks.
    """

    def __init__(self) -> None:
        self._kept: list[_Batch] = []

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._kept = []

    @override
    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: RegionBatch,
        batch_idx: int,
    ) -> None:
        loss = outputs["loss"].detach()
        self._kept.append(
            _Batch(step=trainer.global_step, keys=batch.keys, source=batch.source, loss=loss)
        )
        if not waiting.must_be_waited_for(loss) or len(self._kept) >= _BATCHES_BETWEEN_LOOKS:
            self.look(trainer)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.look(trainer)

    def look(self, trainer: pl.Trainer) -> None:
        """Look at the losses since the last look; to be called by all ranks.

        Raises:
            NotFiniteError: One of them, on any rank, is NaN or infinite.
        """
        if not self._kept:
            return
        kept, self._kept = self._kept, []
        mine_K = ~torch.stack([batch.loss for batch in kept]).isfinite()
        on_ranks_K = trainer.strategy.reduce(mine_K.int(), reduce_op="sum").tolist()
        for batch, is_mine, num_ranks in zip(kept, mine_K.tolist(), on_ranks_K, strict=True):
            if num_ranks:
                keys = _of_all_ranks(batch.keys if is_mine else (), trainer.world_size)
                raise NotFiniteError(
                    f"the loss of step {batch.step} is not finite. The images of this batch, of"
                    f" {_location(trainer, batch.source)}: {', '.join(keys)}."
                    f" {_ADVICE.format(_location(trainer, batch.source))}"
                )


def check_weights(tensors: Mapping[str, Tensor], *, step: int) -> None:
    """Refuse weights that are not finite, as a checkpoint of them would be of no use.

    Args:
        tensors: Weights by name.
        step: Optimizer steps that made them.

    Raises:
        NotFiniteError: One is NaN or infinite.
    """
    names = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if names:
        raise NotFiniteError(
            f"after step {step} weights are not finite, although the loss was: {len(names)}"
            f" tensors, {names[0]} among them. No checkpoint of them is written."
            " Look at the learning rate (model.optimizer.lr), at trainer.precision (32-true is the"
            " safest) and at trainer.gradient_clip_val, and go on from an earlier checkpoint with"
            " --ckpt_path."
        )


def _of_all_ranks(keys: tuple[str, ...], world_size: int) -> list[str]:
    if world_size == 1:
        return list(keys)
    of_ranks: list[tuple[str, ...]] = [()] * world_size
    torch.distributed.all_gather_object(of_ranks, keys)
    return [key for of_rank in of_ranks for key in of_rank]


def _location(trainer: pl.Trainer, source: int) -> str:
    data = getattr(trainer, "datamodule", None)  # attached at run time, see RegionSpotModule
    return str(data.train_caches[source].location) if isinstance(data, CachedRegions) else "?"
