"""The training recipe: options, optimizer and learning rate as in the paper (arXiv 2311.01373).

The options have no slots, as jsonargparse reads the default values of a group from ``__dict__``.
The options of the head are `HeadOptions`, in `regionspot.model`.
"""

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import torch

from regionspot.core.errors import ConfigError
from regionspot.model import FusionHead, Normalization, RegionClassifier

ScheduleShape: TypeAlias = Literal["steps", "cosine"]


@dataclass(frozen=True, kw_only=True)
class ClassifierOptions:
    """Scale and bias of the logits."""

    scale: float = 100.0
    """Factor of the cosine between region and class; 100 is CLIP's own."""
    bias: float = 0.0
    """Added to every logit."""
    trainable: bool = False
    """Whether to train scale and bias; they get no weight decay."""
    lr: float | None = None
    """Learning rate of scale and bias; null for that of the head."""


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """AdamW on the head's weights."""

    lr: float = 2.5e-5
    """Learning rate after warm-up."""
    weight_decay: float = 1e-4
    """Decay of all weights of the head, norms and biases included."""
    fused: bool = True
    """Use torch's fused AdamW: faster; not together with 16-mixed and gradient clipping, where
    Lightning refuses it."""

    def __post_init__(self) -> None:
        if self.lr <= 0 or self.weight_decay < 0:
            raise ConfigError(
                f"model.optimizer has lr {self.lr} and weight_decay {self.weight_decay}; wanted a"
                " rate above 0 and a decay of 0 or more."
            )


@dataclass(frozen=True, kw_only=True)
class ScheduleOptions:
    """How the learning rate changes with the images seen: a linear warm-up, then steps or a cosine.

    It counts images, not optimizer steps, so that a schedule does not depend on the batch size.
    """

    shape: ScheduleShape = "steps"
    """'steps' multiplies by ``gamma`` at each milestone, 'cosine' falls from the end of the warm-up
    to ``final_factor`` at the end of the run."""
    warmup_images: int = 16_000
    """Images until the full rate is reached; 0 for no warm-up."""
    warmup_factor: float = 0.01
    """Share of the full rate in the very first step."""
    milestones_images: tuple[int, ...] = (5_600_000, 6_720_000)
    """For 'steps': images after which the rate is multiplied by ``gamma``, ascending."""
    gamma: float = 0.1
    """For 'steps': factor at each milestone."""
    final_factor: float = 0.0
    """For 'cosine': share of the full rate at the end."""

    def __post_init__(self) -> None:
        if self.warmup_images < 0 or not 0 < self.warmup_factor <= 1 or self.gamma <= 0:
            raise ConfigError(
                f"model.schedule has warmup_images {self.warmup_images}, warmup_factor"
                f" {self.warmup_factor}, gamma {self.gamma}; wanted 0 or more, a share in (0, 1],"
                " and a factor above 0."
            )
        if not 0 <= self.final_factor <= 1:
            raise ConfigError(
                f"model.schedule.final_factor is {self.final_factor}; wanted a share in [0, 1]."
            )
        if list(self.milestones_images) != sorted(set(self.milestones_images)):
            raise ConfigError(
                f"model.schedule.milestones_images is {list(self.milestones_images)}; wanted images"
                " in ascending order, each once."
            )


@dataclass(frozen=True, kw_only=True)
class LossOptions:
    """The sigmoid focal loss."""

    alpha: float = 0.25
    """Weight of the right class; the others weigh 1 - alpha."""
    gamma: float = 2.0
    """How strongly easy decisions are discounted."""
    normalization: Normalization = "paper"
    """'paper': sum over images of the mean over regions. 'regions': mean over all regions."""

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1 or self.gamma < 0:
            raise ConfigError(
                f"model.loss has alpha {self.alpha} and gamma {self.gamma}; wanted a share in"
                " [0, 1] and 0 or more."
            )


GUIDANCE_LR_FACTOR: Final = 10.0
"""Rate of the strengths of learned guidance over that of the head. AdamW moves every number by
about its rate a step, and strengths have to reach 1 to 10, weights a hundredth of that."""


def learning_rate_factor(images: float, options: ScheduleOptions, *, end_images: float) -> float:
    """Return the factor of the full learning rate.

    Args:
        images: Images of all optimizer steps already taken.
        options: Warm-up and shape.
        end_images: Images of the whole run, where a cosine ends; after it the rate is constant.
    """
    factor = _factor_after_warmup(images, options, end_images=end_images)
    if images >= options.warmup_images:
        return factor
    progress = images / options.warmup_images
    return factor * (options.warmup_factor + (1 - options.warmup_factor) * progress)


def warmup_warning(options: ScheduleOptions, *, end_images: float) -> str | None:
    """Return a warning if a run ends before its warm-up, at a fraction of the full rate.

    Args:
        options: Warm-up and shape.
        end_images: Images of the whole run.

    Returns:
        The warning, or None if the full rate is reached.
    """
    if not 0 < end_images <= options.warmup_images:
        return None
    reached = learning_rate_factor(end_images, options, end_images=end_images)
    return (
        f"the run ends after {end_images:,.0f} images, within its warm-up of"
        f" {options.warmup_images:,} (model.schedule.warmup_images): the learning rate only reaches"
        f" {reached:.1%} of model.optimizer.lr, so that little is learned. For a run this short"
        f" give --model.schedule.warmup_images {int(end_images // 10)}, a tenth of it."
    )


def _factor_after_warmup(images: float, options: ScheduleOptions, *, end_images: float) -> float:
    if options.shape == "steps":
        return options.gamma ** bisect_right(options.milestones_images, images)
    span = end_images - options.warmup_images
    if not 0 < span < math.inf:
        raise ConfigError(
            f"model.schedule.shape is cosine, with a warm-up of {options.warmup_images} images in a"
            f" run of {end_images:g}: it must end, after its warm-up. Give --max_images (or"
            " trainer.max_steps), or less --model.schedule.warmup_images."
        )
    progress = min(max(images - options.warmup_images, 0) / span, 1.0)
    height = (1 + math.cos(math.pi * progress)) / 2
    return options.final_factor + (1 - options.final_factor) * height


def make_optimizer(
    head: FusionHead,
    classifier: RegionClassifier,
    *,
    optimizer: OptimizerOptions,
    classifier_options: ClassifierOptions,
) -> torch.optim.AdamW:
    """Return AdamW; trained scale and bias get their own rate and no decay.

    So do the strengths of learned guidance: `GUIDANCE_LR_FACTOR` times the rate of the head. They
    are kept at 0 or more, after each step.

    Args:
        head: All its weights are trained.
        classifier: Its scale and bias are trained if the options say so.
        optimizer: Rate and decay of the head.
        classifier_options: Whether scale and bias are trained, and at which rate.
    """
    strengths = [parameter for guidance in head.guidance() for parameter in guidance.parameters()]
    apart = set(strengths)
    groups: list[dict[str, Any]] = [{"params": [p for p in head.parameters() if p not in apart]}]
    if classifier_options.trainable:
        groups.append(
            {
                "params": list(classifier.parameters()),
                "lr": classifier_options.lr or optimizer.lr,
                "weight_decay": 0.0,
            }
        )
    if strengths:
        groups.append(
            {"params": strengths, "lr": GUIDANCE_LR_FACTOR * optimizer.lr, "weight_decay": 0.0}
        )
    adamw = torch.optim.AdamW(
        groups, lr=optimizer.lr, weight_decay=optimizer.weight_decay, fused=optimizer.fused or None
    )
    if strengths:
        adamw.register_step_post_hook(lambda *_: _project(head))
    return adamw


def _project(head: FusionHead) -> None:
    for guidance in head.guidance():
        guidance.project_()
