import pytest
import torch
from torch.optim.lr_scheduler import ChainedScheduler, LinearLR, MultiStepLR

from regionspot.core.errors import ConfigError
from regionspot.training import OptimizerOptions, ScheduleOptions
from regionspot.training.schedule import learning_rate_factor


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (0, 0.01),
        (500, 0.505),
        (1000, 1.0),
        (349_999, 1.0),
        (350_000, 0.1),
        (419_999, 0.1),
        (420_000, 0.01),
    ],
)
def test_the_papers_schedule_by_hand(step: int, factor: float) -> None:
    assert learning_rate_factor(step, ScheduleOptions()) == pytest.approx(factor)


def test_it_equals_torchs_schedulers_chained() -> None:
    options = ScheduleOptions(warmup_steps=7, warmup_factor=0.2, milestones=(5, 12), gamma=0.3)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = ChainedScheduler(
        [
            LinearLR(optimizer, start_factor=0.2, total_iters=7),
            MultiStepLR(optimizer, milestones=[5, 12], gamma=0.3),
        ]
    )
    for step in range(20):
        assert learning_rate_factor(step, options) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()


def test_without_warm_up_the_first_step_is_at_full_rate() -> None:
    assert learning_rate_factor(0, ScheduleOptions(warmup_steps=0, milestones=())) == 1.0


@pytest.mark.parametrize(
    "options",
    [{"warmup_steps": -1}, {"warmup_factor": 0.0}, {"gamma": 0.0}, {"milestones": (5, 3)}],
)
def test_senseless_schedules_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=r"model\.schedule"):
        ScheduleOptions(**options)  # type: ignore[arg-type]


def test_a_senseless_optimizer_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.optimizer"):
        OptimizerOptions(lr=0.0)
