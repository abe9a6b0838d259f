"""The training recipe: optimizer, learning rate and their options, by default the paper's.

The paper is arXiv 2311.01373. The options of the head are `HeadOptions` in `regionspot.model`.
Option classes have no slots, since jsonargparse reads default values from ``__dict__``.
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
    """Factor of the cosine similarity between region and class. CLIP uses 100."""
    bias: float = 0.0
    """Added to every logit."""
    trainable: bool = False
    """Train scale and bias, without weight decay."""
    lr: float | None = None
    """Learning rate of scale and bias. null uses that of the head."""


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """Options of AdamW for the weights of the head."""

    lr: float = 2.5e-5
    """Learning rate after warm-up."""
    weight_decay: float = 1e-4
    """Weight decay of the whole head, including norms and biases."""
    fused: bool = True
    """Use torch's fused AdamW, which is faster. Lightning does not support it together with
    16-mixed precision and gradient clipping."""

    def __post_init__(self) -> None:
        if self.lr <= 0 or self.weight_decay < 0:
            raise ConfigError(
                f"model.optimizer has lr {self.lr} and weight_decay {self.weight_decay}; wanted a"
                " rate above 0 and a decay of 0 or more."
            )


@dataclass(frozen=True, kw_only=True)
class ScheduleOptions:
    """Learning rate as a function of the images seen: a linear warm-up, then steps or a cosine.

    Images are counted instead of optimizer steps, so that it does not depend on the batch size.
    """

    shape: ScheduleShape = "steps"
    """'steps' multiplies the rate by ``gamma`` at each milestone. 'cosine' decays it from the
    end of the warm-up to ``final_factor`` at the end of the run."""
    warmup_images: int = 16_000
    """Number of images of the linear warm-up. 0 disables it."""
    warmup_factor: float = 0.01
    """Learning rate of the first step, as a fraction of the full rate."""
    milestones_images: tuple[int, ...] = (5_600_000, 6_720_000)
    """For 'steps': numbers of images after which the rate is multiplied by ``gamma``."""
    gamma: float = 0.1
    """For 'steps': factor at each milestone."""
    final_factor: float = 0.0
    """For 'cosine': final learning rate, as a fraction of the full rate."""

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
    """Options of the sigmoid focal loss."""

    alpha: float = 0.25
    """Weight of the correct class. The other classes have weight 1 - alpha."""
    gamma: float = 2.0
    """Focusing parameter: larger values give easy examples less weight."""
    normalization: Normalization = "paper"
    """'paper': mean over the regions of each image, summed over images. 'regions': mean over all
    regions."""

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1 or self.gamma < 0:
            raise ConfigError(
                f"model.loss has alpha {self.alpha} and gamma {self.gamma}; wanted a share in"
                " [0, 1] and 0 or more."
            )


GUIDANCE_LR_FACTOR: Final = 10.0
"""Learning rate of guidance strengths relative to that of the head. AdamW changes every parameter
by about its rate per step; strengths reach 1 to 10, weights a hundredth of that."""


def learning_rate_factor(images: float, options: ScheduleOptions, *, end_images: float) -> float:
    """Return the factor of the full learning rate.

    Args:
        images: Number of images seen in previous optimizer steps.
        options: Warm-up and shape.
        end_images: Number of images of the whole run, where a cosine ends.
    """
    factor = _factor_after_warmup(images, options, end_images=end_images)
    if images >= options.warmup_images:
        return factor
    progress = images / options.warmup_images
    return factor * (options.warmup_factor + (1 - options.warmup_factor) * progress)


def warmup_warning(options: ScheduleOptions, *, end_images: float) -> str | None:
    """Return a warning if a run of ``end_images`` images ends during warm-up, else None."""
    if not 0 < end_images <= options.warmup_images:
        return None
    reached = learning_rate_factor(end_images, options, end_images=end_images)
    return (
        f"the run ends after {end_images:,.0f} images, within its warm-up of"
        f" {options.warmup_images:,} (model.schedule.warmup_images), so the learning rate only"
        f" reaches {reached:.1%} of model.optimizer.lr. For such a short run give"
        f" --model.schedule.warmup_images {int(end_images // 10)}, a tenth of it."
    )


def _factor_after_warmup(images: float, options: ScheduleOptions, *, end_images: float) -> float:
    if options.shape == "steps":
        return options.gamma ** bisect_right(options.milestones_images, images)
    span = end_images - options.warmup_images
    if not 0 < span < math.inf:
        raise ConfigError(
            f"model.schedule.shape is cosine, with a warm-up of {options.warmup_images} images in a"
            f" run of {end_images:g}; wanted a finite run, longer than its warm-up. Give"
            " --max_images (or trainer.max_steps), or reduce --model.schedule.warmup_images."
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
    """Return AdamW; scale, bias and learned guidance get their own rates and no decay.

    Strengths of guidance have `GUIDANCE_LR_FACTOR` times the rate of the head, and are clamped to 0
    or more after each step.

    Args:
        head: All its parameters are trained.
        classifier: Its scale and bias are trained if the options say so.
        optimizer: Learning rate and weight decay of the head.
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

        def project(*_: object) -> None:
            for guidance in head.guidance():
                guidance.project_()

        adamw.register_step_post_hook(project)
    return adamw
