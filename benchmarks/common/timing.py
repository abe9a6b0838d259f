"""Clocks that wait for a GPU, and the rate of a large matrix product to compare with."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

Way = Callable[[], object]


def synchronize(device: torch.device) -> None:
    """Wait until a device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(way: Way, device: torch.device, *, calls: int = 1) -> float:
    """Return the seconds that a call takes until its device is done, the mean of several."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(calls):
        way()
    synchronize(device)
    return (time.perf_counter() - start) / calls


def timed_in_turn(
    ways: Mapping[str, Way], device: torch.device, *, rounds: int, calls: int = 1
) -> dict[str, list[float]]:
    """Time ways in turn, in seconds a call by round; a first round warms up and does not count."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            seconds = timed(way, device, calls=calls)
            if number > 0:
                times[name].append(seconds)
    return times


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Return the median of the ratios by round."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def peak_flops_per_s(
    device: torch.device, dtype: torch.dtype, *, side: int | None = None, repeats: int = 10
) -> float:
    """Measure how fast a device multiplies large matrices: the best of some tries.

    Args:
        device: The device.
        dtype: Of the matrices.
        side: Their side; None for 8192 on a GPU and 2048 elsewhere.
        repeats: How many tries, after one that does not count.
    """
    side = side or (8192 if device.type == "cuda" else 2048)
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    torch.mm(left, right)
    best_s = min(timed(lambda: torch.mm(left, right), device) for _ in range(repeats))
    return 2 * side**3 / best_s
