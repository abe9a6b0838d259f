"""Sections of the GPU benchmark that end in every way that a section may end."""

import os
import time
from collections.abc import Iterator

from card.table import Row
from card.worker import Setup


def well(setup: Setup) -> Iterator[Row]:
    """Give one figure: how many there were before."""
    yield Row(what="figures before", figure=len(setup.figures), unit="figures")


def badly(setup: Setup) -> Iterator[Row]:
    """Give one figure, then fail."""
    yield Row(what="before the failure", figure=1, unit="figure", peer=setup.device, ratio=0.5)
    raise MemoryError("out of memory")


def never(_setup: Setup) -> Iterator[Row]:
    """Give one figure, then hang."""
    yield Row(what="before the wait", figure=1, unit="figure")
    time.sleep(600)


def suddenly(setup: Setup) -> Iterator[Row]:
    """End with the process, as after an error in native code."""
    if setup.size == "tiny":
        os._exit(7)
    yield from ()


def without_a_number(_setup: Setup) -> Iterator[Row]:
    """Divide by nothing."""
    yield Row(what="a rate", figure=float("inf"), unit="images/s")


def with_nothing(_setup: Setup) -> Iterator[Row]:
    """Give no figure at all."""
    yield from ()
