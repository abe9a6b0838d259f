import math

import pytest
import torch

from regionspot.core.errors import ShapeError
from regionspot.model.position_code import sincos_position_code


def test_two_by_two_grid_by_hand() -> None:
    # Width 4 has one frequency, 2; the two positions of an axis are 0 and pi, whose doubled angles
    # are 0 and 2 pi: sine 0, cosine 1 everywhere.
    code = sincos_position_code(5, 4, device=torch.device("cpu"))
    wanted = torch.tensor([[0.0, 0, 0, 0]] + [[0.0, 1, 0, 1]] * 4)
    torch.testing.assert_close(code, wanted, atol=1e-6, rtol=0)


def test_x_comes_first_and_rows_come_one_after_the_other() -> None:
    code = sincos_position_code(10, 8, device=torch.device("cpu"))[1:].view(3, 3, 8)
    angle = 2 * (1 / 3) * 2 * math.pi  # second position of three, first frequency
    for row in range(3):
        assert math.isclose(code[row, 1, 0].item(), math.sin(angle), abs_tol=1e-6)
    for column in range(3):
        assert math.isclose(code[1, column, 4].item(), math.sin(angle), abs_tol=1e-6)
    assert len(code.view(9, 8).unique(dim=0)) == 9


def test_a_width_that_is_no_multiple_of_four_is_refused() -> None:
    with pytest.raises(ShapeError, match="multiple of 4 as width, found 6"):
        sincos_position_code(5, 6, device=torch.device("cpu"))
