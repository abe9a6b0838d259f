import math

import torch

from regionspot.inference.clip_crops import pooled_patch_logits


def test_pooling_is_the_log_of_the_mean_of_exp_of_scaled_cosines() -> None:
    patches = torch.tensor([[3.0, 0.0], [0.0, 5.0], [-1.0, 0.0]])  # lengths do not count
    bank = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    inside = torch.tensor([[True, True, False], [False, False, True]])
    logits = pooled_patch_logits(patches, inside, bank, scale=2.0)
    both = math.log((math.exp(2) + math.exp(0)) / 2)
    torch.testing.assert_close(logits, torch.tensor([[both, both], [-2.0, 0.0]]))


def test_pooling_no_region_gives_no_rows() -> None:
    inside = torch.zeros(0, 3, dtype=torch.bool)
    assert pooled_patch_logits(torch.ones(3, 2), inside, torch.ones(5, 2), scale=1.0).shape == (
        0,
        5,
    )
