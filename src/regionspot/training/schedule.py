"""The learning rate as a function of the step."""

from bisect import bisect_right

from regionspot.training.options import ScheduleOptions


def learning_rate_factor(step: int, options: ScheduleOptions) -> float:
    """Return what to multiply the full learning rate with.

    Args:
        step: Optimizer steps already taken.
        options: Warm-up and milestones.
    """
    factor = options.gamma ** bisect_right(options.milestones, step)
    if step >= options.warmup_steps:
        return factor
    progress = step / options.warmup_steps
    return factor * (options.warmup_factor + (1 - options.warmup_factor) * progress)
