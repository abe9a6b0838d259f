"""AdamW over a head and its classifier."""

from typing import Any

import torch

from regionspot.model import FusionHead, RegionClassifier
from regionspot.training.options import ClassifierOptions, OptimizerOptions


def make_optimizer(
    head: FusionHead,
    classifier: RegionClassifier,
    *,
    optimizer: OptimizerOptions,
    classifier_options: ClassifierOptions,
) -> torch.optim.AdamW:
    """Return AdamW; trained scale and bias get their own rate and no decay.

    Args:
        head: All its weights are trained.
        classifier: Its scale and bias are, if the options say so.
        optimizer: Rate and decay of the head.
        classifier_options: Whether scale and bias are trained, and at which rate.
    """
    groups: list[dict[str, Any]] = [{"params": list(head.parameters())}]
    if classifier_options.trainable:
        groups.append(
            {
                "params": list(classifier.parameters()),
                "lr": classifier_options.lr or optimizer.lr,
                "weight_decay": 0.0,
            }
        )
    return torch.optim.AdamW(
        groups, lr=optimizer.lr, weight_decay=optimizer.weight_decay, fused=optimizer.fused or None
    )
