"""Numbers as people pass them from Python: arrays, tensors on any device, lists, generators."""

from collections.abc import Iterator
from operator import index
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from regionspot.core.errors import ConfigError, ShapeError


def as_array(values: object, *, name: str, dtype: DTypeLike | None = None) -> NDArray[Any]:
    """Turn numbers into an array.

    Args:
        values: An array, a tensor, or a list or generator of these or of numbers.
        name: The argument they were given for, for the message.
        dtype: Type of the numbers; None keeps theirs.

    Raises:
        ShapeError: They are no numbers, or rows differ in length.
    """
    try:
        with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and told so
            return np.asarray(_plain(values), dtype=dtype)
    except (TypeError, ValueError) as error:
        raise ShapeError(
            f"{name}= makes no array ({error}). Wanted numbers, and equally many for every region:"
            " where points differ in number, pad them with the label -1."
        ) from error


def tensor_to_array(tensor: Tensor) -> NDArray[Any]:
    """Return a tensor of any device and any number type as an array."""
    on_cpu = tensor.detach().cpu()
    try:
        return on_cpu.numpy()
    except TypeError:  # numpy has no bfloat16
        return on_cpu.float().numpy()


def as_count(value: object, *, name: str) -> int:
    """Check that a value is a whole number of 1 or more.

    Raises:
        ConfigError: It is not.
    """
    try:
        count = 0 if isinstance(value, bool) else index(value)  # type: ignore[arg-type]
    except TypeError:
        count = 0
    if count < 1:
        raise ConfigError(f"{name} is {value!r}; wanted a whole number of at least 1.")
    return count


def _plain(values: object) -> object:
    if isinstance(values, Tensor):
        return tensor_to_array(values)
    if isinstance(values, list | tuple | Iterator):
        return [_plain(value) for value in values]
    return values
