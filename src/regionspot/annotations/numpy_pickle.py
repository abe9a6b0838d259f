"""Reads pickles of plain values and numpy arrays, without running what else is in them.

A pickle is a program: it names functions and has them called. Here it gets the handful that numpy
arrays are made by, and is refused at the first other name, before anything of that name is looked
up or imported.
"""

import codecs
import pickle
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

import numpy as np
from typing_extensions import override

from regionspot.core.errors import AnnotationError


def _maker(value: np.ndarray | np.generic, protocol: int) -> Callable[..., object]:
    """Return the function that numpy has a value unpickled by."""
    maker = value.__reduce_ex__(protocol)[0]
    if not callable(maker):
        raise TypeError(f"numpy pickles a {type(value).__name__} by {maker!r}, no function.")
    return maker


_FROM_BUFFER = _maker(np.zeros(1), 5)


class _FromBuffer:
    """Calls numpy's function, a Python function, whose defaults a pickle could overwrite."""

    __slots__ = ()

    def __call__(self, *args: object) -> object:
        return _FROM_BUFFER(*args)


def _allowed() -> Mapping[tuple[str, str], object]:
    names: dict[tuple[str, str], object] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        # Protocols before 3 spell bytes as encoded text, and empty ones as a call.
        ("_codecs", "encode"): codecs.encode,
        ("__builtin__", "bytes"): bytes,
        ("collections", "OrderedDict"): OrderedDict,
        # Its members are numbers; Detectron2 need not be installed.
        ("detectron2.structures.boxes", "BoxMode"): int,
    }
    for core in ("numpy.core", "numpy._core"):  # before numpy 2 and since
        names[f"{core}.multiarray", "_reconstruct"] = _maker(np.zeros(1), 2)
        names[f"{core}.multiarray", "scalar"] = _maker(np.float32(0), 2)
        names[f"{core}.numeric", "_frombuffer"] = _FromBuffer()
    return MappingProxyType(names)


ALLOWED = _allowed()
"""What a pickle may name, by module and name, and what it gets: nothing that it could change, read
or run things with."""


class _NumpyUnpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, path: Path) -> None:
        # Python 2 wrote the bytes of arrays as text of this encoding.
        super().__init__(file, encoding="latin1")
        self._path = path

    @override
    def find_class(self, module_name: str, global_name: str, /) -> object:
        found = ALLOWED.get((module_name, global_name))
        if found is None:
            raise AnnotationError(
                f"{self._path} is a pickle that asks for {module_name}.{global_name}; wanted plain"
                " values, numpy arrays and Detectron2's BoxMode. Nothing in it was run. Write the"
                " file again with numpy arrays only, or do not trust it."
            )
        return found


def load_numpy_pickle(path: Path) -> object:
    """Return the value in a pickle of plain values and numpy arrays.

    Raises:
        AnnotationError: It is damaged, or names anything else.
    """
    with path.open("rb") as file, warnings.catch_warnings():
        # Arrays that an older numpy pickled are read well, but numpy 2.4 remarks on them.
        warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
        try:
            return _NumpyUnpickler(file, path).load()
        except AnnotationError:
            raise
        # All that a damaged pickle may end in, as the documentation of `pickle` warns.
        except (
            *(pickle.UnpicklingError, EOFError, ValueError, TypeError, LookupError),
            *(AttributeError, ImportError, ArithmeticError, MemoryError, RuntimeError),
        ) as error:
            raise AnnotationError(
                f"{path} cannot be unpickled ({type(error).__name__}: {error}). Is it cut off?"
                " Copy the proposals file again."
            ) from error
