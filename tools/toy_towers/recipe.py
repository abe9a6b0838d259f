"""What the training of both towers has in common: two optimizers and one schedule.

Muon (momentum, orthogonalized) takes the matrices of the transformer blocks, AdamW all the rest;
at this size that needs about half of the steps that AdamW alone needs.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_WARMUP_STEPS = 50
_DECAY_SHARE = 0.65
_FLOOR = 0.01
_WEIGHT_DECAY = 0.05


class TowerOptimizer:
    """Muon for block matrices and AdamW for the rest, stepped as one."""

    def __init__(
        self, model: nn.Module, *, blocks: Sequence[str], learning_rate: float, num_steps: int
    ) -> None:
        """Split the parameters.

        Args:
            model: The tower.
            blocks: Parts of parameter names that mark the blocks whose matrices go to Muon.
            learning_rate: Peak rate of both; Muon's updates are scaled to AdamW's size.
            num_steps: Length of the schedule.
        """
        named = [(k, p) for k, p in model.named_parameters() if p.requires_grad]
        matrices = [p for k, p in named if p.ndim == 2 and any(block in k for block in blocks)]
        taken = {id(p) for p in matrices}
        rest = [p for _, p in named if id(p) not in taken]
        self.parameters: list[Tensor] = [*matrices, *rest]
        self._learning_rate, self._num_steps = learning_rate, num_steps
        self._rest = rest
        self._optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(
                matrices,
                lr=learning_rate,
                weight_decay=_WEIGHT_DECAY,
                adjust_lr_fn="match_rms_adamw",
            ),
            torch.optim.AdamW(
                [
                    {"params": [p for p in rest if p.ndim > 1], "weight_decay": _WEIGHT_DECAY},
                    {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
                ],
                lr=learning_rate,
                betas=(0.9, 0.98),
                eps=1e-6,
            ),
        ]

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for optimizer in self._optimizers:
            optimizer.zero_grad()

    def step(self, step: int) -> None:
        """Clip, set the rate of step ``step`` (from 0) and change the parameters."""
        rate = self._learning_rate * schedule(step, self._num_steps)
        # Muon's updates have a fixed size whatever the gradient's, so only the rest is clipped.
        nn.utils.clip_grad_norm_(self._rest, 1.0)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()


def schedule(step: int, num_steps: int) -> float:
    """Warm up for 50 steps, hold, then fall linearly over the last 65 % of the steps.

    Args:
        step: Step from 0.
        num_steps: Number of steps in all.

    Returns:
        Factor on the peak learning rate, 0.01 to 1.
    """
    rise = (step + 1) / _WARMUP_STEPS
    fall = (1 - step / num_steps) / _DECAY_SHARE
    return max(_FLOOR, min(1.0, rise, fall))
