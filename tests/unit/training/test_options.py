import pytest

from regionspot.core.errors import ConfigError
from regionspot.training import LossOptions, OptimizerOptions


@pytest.mark.parametrize("values", [{"gamma": -0.5}, {"alpha": 1.5}, {"alpha": -0.1}])
def test_a_loss_that_cannot_work_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"model.loss has .*wanted a share in \[0, 1\]"):
        LossOptions(**values)  # type: ignore[arg-type] # the third field is none of these


@pytest.mark.parametrize("values", [{"lr": 0.0}, {"weight_decay": -1e-4}])
def test_an_optimizer_that_cannot_work_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="model.optimizer has"):
        OptimizerOptions(**values)  # type: ignore[arg-type] # `fused` is none of these
