"""What of a training step a GPU would have to be waited for: torch's fake tensors know no values.

On a fake GPU everything can be computed but what depends on a value: how many elements are true,
or what stands in one.
"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode

from regionspot.model import FusionHead, HeadSpec, RegionClassifier, region_focal_loss
from regionspot.model.loss import _first_true


def loss_of_a_step(num_counted: int | None) -> Tensor:
    with torch.device("cuda"):
        head = FusionHead(
            HeadSpec(token_dim=8, feature_dim=16, text_dim=12, num_heads=2, ffn_dim=24)
        )
        classifier = RegionClassifier()
        tokens = torch.empty(3, 5, 8, dtype=torch.float16)
        feature_map = torch.empty(3, 7, 16, dtype=torch.float16)
        region_mask = torch.empty(3, 5, dtype=torch.bool)
        labels = torch.empty(3, 5, dtype=torch.int64)
        bank = torch.empty(40_000, 12)  # several tiles
    return region_focal_loss(
        head(tokens, feature_map, region_mask),
        bank,
        labels,
        region_mask,
        classifier=classifier,
        num_counted=num_counted,
    )


def test_a_step_on_a_gpu_waits_for_nothing_where_the_number_of_regions_is_known() -> None:
    with FakeTensorMode():
        loss = loss_of_a_step(num_counted=9)
        assert (loss.shape, loss.device.type, loss.dtype) == ((), "cuda", torch.float32)


def test_the_number_of_regions_is_what_it_would_wait_for() -> None:
    with FakeTensorMode(), pytest.raises(DynamicOutputShapeException, match="nonzero"):
        loss_of_a_step(num_counted=None)


@given(st.lists(st.booleans(), max_size=40))
def test_regions_are_found_in_the_same_order_without_waiting(is_counted: list[bool]) -> None:
    found = _first_true(torch.tensor(is_counted, dtype=torch.bool))
    assert found[: sum(is_counted)].tolist() == np.flatnonzero(is_counted).tolist()
