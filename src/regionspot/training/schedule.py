"""The learning rate as a function of the images seen."""

import math
from bisect import bisect_right

from regionspot.core.errors import ConfigError
from regionspot.training.options import ScheduleOptions


def learning_rate_factor(images: float, options: ScheduleOptions, *, end_images: float) -> float:
    """Return what to multiply the full learning rate with.

    Args:
        images: Images of all optimizer steps already taken.
        options: Warm-up and shape.
        end_images: Images of the whole run, where a cosine ends; beyond it the rate stays.

    Raises:
        ConfigError: A cosine has no end, or ends within the warm-up.
    """
    factor = _factor_after_warmup(images, options, end_images=end_images)
    if images >= options.warmup_images:
        return factor
    progress = images / options.warmup_images
    return factor * (options.warmup_factor + (1 - options.warmup_factor) * progress)


def warmup_warning(options: ScheduleOptions, *, end_images: float) -> str | None:
    """Say so where a run ends before its warm-up does: it trains at a fraction of the rate.

    Args:
        options: Warm-up and shape.
        end_images: Images of the whole run.

    Returns:
        The warning, or None where the full rate is reached.
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
