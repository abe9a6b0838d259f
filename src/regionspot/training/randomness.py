"""Dropout that does not depend on where a run was interrupted."""

from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from typing_extensions import override


class BatchSeeds(pl.Callback):
    """Seeds torch before each batch, by the run's seed, the number of the batch and the rank.

    So a resumed run drops what an undisturbed one would have dropped, with nothing to save; and no
    two ranks drop the same. The run's seed is what torch was seeded with when training began
    (``seed_everything``). A run that is spread over another number of ranks drops other
    activations: each rank draws for its own images.
    """

    def __init__(self) -> None:
        self._run_seed = 0

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._run_seed = torch.initial_seed()

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        number = trainer.fit_loop.total_batch_idx
        sequence = np.random.SeedSequence([self._run_seed, number, trainer.global_rank])
        torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0]))
