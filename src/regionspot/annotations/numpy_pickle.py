"""Reads pickles of plain values and numpy arrays, without running any other code in them.

A pickle is a program. Python's own interpreter calls whatever the pickle names, lets it set the
state of any object, numpy's included, and trusts every size in it. This one implements only the
instructions for plain values and arrays of numbers. It calls nothing by name: a name stands for a
function below, and an array is made from its bytes, type and shape, all checked. Its result is
never larger than a small multiple of the file.
"""

import math
import pickletools
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, cast

import numpy as np

from regionspot.core.errors import AnnotationError
from regionspot.core.shown import shown

_WANTED = "wanted plain values, numpy arrays of numbers and Detectron2's BoxMode"
_DTYPE = re.compile(r"[<>=|]?(b1|i[1248]|u[1248]|f[248]|U[1-9][0-9]{0,6})")
_BYTE_ORDERS = (("<",), (">",), ("=",), ("|",))
_NO_FIELDS = (None, None, None)  # of the state of a dtype: subarray, names, fields
_STATE_LEN = 8
_CORES = ("numpy.core", "numpy._core")  # before numpy 2 and since
_MAX_DIMS = 4
_TEXT_ENCODINGS = ("latin1", "latin-1")
_DAMAGED = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, EOFError)

_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}


class _Unfit(Exception):  # noqa: N818 - becomes an AnnotationError that names the file
    """The pickle is valid, but holds something that is not supported here."""


class _Dtype:
    """The type of an array during reading: a letter and a size, then the byte order."""

    def __init__(self, code: object, *_flags: object) -> None:
        self.code = code
        self.state: object = None

    def dtype(self) -> np.dtype[np.generic]:
        """Return numpy's own, if it is a type of plain numbers or text."""
        if not (isinstance(self.code, str) and _DTYPE.fullmatch(self.code)):
            raise _Unfit(f"an array of type {shown(self.code)}")
        dtype = np.dtype(self.code)
        if self.state is None:
            return dtype
        state = self.state if isinstance(self.state, tuple) else ()
        # Version, byte order, subarray, names, fields; sizes and flags follow from the letter.
        if state[1:2] not in _BYTE_ORDERS or state[2:5] != _NO_FIELDS or len(state) > _STATE_LEN:
            raise _Unfit("an array type with fields, subarrays or metadata")
        return dtype.newbyteorder(state[1])


class _Array:
    """An array whose state is set later."""

    def __init__(self, *_arguments: object) -> None:
        self.value: np.ndarray | None = None


class _NoCall:
    """A name that is an argument, but never called."""


def _bytes_of_text(text: object, encoding: object) -> bytes:
    if not isinstance(text, str) or encoding not in _TEXT_ENCODINGS:
        raise _Unfit(f"text in the encoding {shown(encoding)}")
    return text.encode("latin-1")


def _box_mode(value: object) -> int:
    if not isinstance(value, int):
        raise _Unfit(f"the BoxMode {shown(value)}")
    return int(value)


def _from_buffer(data: object, dtype: object, shape: object, order: object) -> np.ndarray:
    return _array_of(data, dtype, shape, is_fortran=order == "F")


def _scalar(dtype: object, data: object) -> object:
    return _array_of(data, dtype, (), is_fortran=False)[()]


def _array_of(data: object, dtype: object, shape: object, *, is_fortran: bool) -> np.ndarray:
    """Make an array that shares the bytes."""
    if isinstance(data, str):  # Python 2 wrote the bytes of arrays as text
        data = data.encode("latin-1")
    if isinstance(data, list):
        raise _Unfit("an array of objects")
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray):
        raise _Unfit(f"an array of {shown(dtype)} from {shown(data)}")
    numpys = dtype.dtype()
    if not (isinstance(shape, tuple) and len(shape) <= _MAX_DIMS and all(map(_is_size, shape))):
        raise _Unfit(f"an array of shape {shown(shape)}")
    wanted = math.prod(shape) * numpys.itemsize
    if len(data) != wanted:
        raise _Unfit(
            f"{len(data)} bytes for {numpys} of shape {shown(shape)}, which takes {wanted}"
        )
    return np.frombuffer(data, numpys).reshape(shape, order="F" if is_fortran else "C")


def _is_size(value: object) -> bool:
    return isinstance(value, int) and 0 <= value < 2**40


ALLOWED: Mapping[tuple[str, str], Callable[..., object]] = MappingProxyType(
    {
        ("numpy", "ndarray"): _NoCall,
        ("numpy", "dtype"): _Dtype,
        **{(f"{core}.multiarray", "_reconstruct"): _Array for core in _CORES},
        **{(f"{core}.multiarray", "scalar"): _scalar for core in _CORES},
        **{(f"{core}.numeric", "_frombuffer"): _from_buffer for core in _CORES},
        # Protocols before 3 write bytes as encoded text, and empty ones as a call.
        ("_codecs", "encode"): _bytes_of_text,
        ("__builtin__", "bytes"): lambda: b"",
        ("collections", "OrderedDict"): dict,
        # Its members are numbers; Detectron2 need not be installed.
        ("detectron2.structures.boxes", "BoxMode"): _box_mode,
    }
)
"""What a pickle may name, by module and name, and our function that stands for it."""


class PlainPickles:
    """Reads the pickles of a file, one after the other.

    Args:
        file: The opened file.
        num_bytes: Its size, which limits that of the values.
        path: Its name in messages.
    """

    def __init__(self, file: BinaryIO, *, num_bytes: int, path: Path) -> None:
        self._file = _Clamped(file, num_bytes)
        self._path = path
        self._left = 2 * num_bytes  # bytes that functions may still make: text to bytes to array
        self._stack: list[object] = []
        self._below: list[list[object]] = []
        self._memo: dict[int, object] = {}
        self._steps: Mapping[str, Callable[[Any], object]] = {
            **dict.fromkeys(_VALUES, self._push),
            **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda _: None),
            **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), self._put),
            **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), self._get),
            "NEWTRUE": lambda _: self._push(value=True),
            "NEWFALSE": lambda _: self._push(value=False),
            "NONE": lambda _: self._push(None),
            "MEMOIZE": lambda _: self._put(len(self._memo)),
            "MARK": lambda _: self._mark(),
            "POP": lambda _: self._pop(1),
            "POP_MARK": lambda _: self._pop_to_mark(),
            "EMPTY_LIST": lambda _: self._push([]),
            "EMPTY_DICT": lambda _: self._push({}),
            "EMPTY_TUPLE": lambda _: self._push(()),
            "LIST": lambda _: self._push(self._pop_to_mark()),
            "TUPLE": lambda _: self._push(tuple(self._pop_to_mark())),
            "DICT": lambda _: self._dict(),
            "TUPLE1": lambda _: self._push(tuple(self._pop(1))),
            "TUPLE2": lambda _: self._push(tuple(self._pop(2))),
            "TUPLE3": lambda _: self._push(tuple(self._pop(3))),
            "APPEND": lambda _: self._append(self._pop(1)),
            "APPENDS": lambda _: self._append(self._pop_to_mark()),
            "SETITEM": lambda _: self._set(self._pop(2)),
            "SETITEMS": lambda _: self._set(self._pop_to_mark()),
            "GLOBAL": lambda argument: self._name(*argument.split(" ", 1)),
            "STACK_GLOBAL": lambda _: self._name(*self._pop(2)),
            "REDUCE": lambda _: self._reduce(),
            "BUILD": lambda _: self._build(),
        }

    def load(self) -> object:
        """Return the value of the next pickle, or raise an ``AnnotationError``.

        It must be undamaged, hold no arrays but those of numbers or text, and name only `ALLOWED`.
        """
        self._stack, self._below, self._memo = [], [], {}
        try:
            with warnings.catch_warnings():  # about backslashes in old pickles' text
                warnings.simplefilter("ignore", DeprecationWarning)
                for opcode, argument, _ in pickletools.genops(cast("BinaryIO", self._file)):
                    self._step(opcode.name, argument)
            (value,) = self._stack
        except _Unfit as error:
            raise AnnotationError(
                f"{self._path} is a pickle that holds {error}; {_WANTED}. Nothing in it was run."
            ) from None
        except AnnotationError:
            raise
        except _DAMAGED as error:
            raise AnnotationError(
                f"{self._path} cannot be unpickled ({type(error).__name__}: {error!s:.200}). Is"
                " it cut off? Copy the proposals file again."
            ) from error
        return value

    def _step(self, name: str, argument: object) -> None:
        if name not in self._steps:
            raise _Unfit(f"the instruction {name}")
        self._steps[name](argument)

    def _push(self, value: object) -> None:
        self._stack.append(value)

    def _put(self, place: int) -> None:
        self._memo[place] = self._stack[-1]

    def _get(self, place: int) -> None:
        value = self._memo[place]
        is_made = isinstance(value, _Array) and value.value is not None
        self._push(cast("_Array", value).value if is_made else value)

    def _pop(self, count: int) -> list[object]:
        if len(self._stack) < count:
            raise IndexError("an instruction needs more values than there are")
        values = self._stack[-count:]
        del self._stack[-count:]
        return values

    def _mark(self) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _pop_to_mark(self) -> list[object]:
        values, self._stack = self._stack, self._below.pop()
        return values

    def _dict(self) -> None:
        values = self._pop_to_mark()
        self._push({})
        self._set(values)

    def _append(self, values: Sequence[object]) -> None:
        target = self._stack[-1]
        if not isinstance(target, list):
            raise TypeError(f"values are appended to a {type(target).__name__}")
        target.extend(values)

    def _set(self, values: Sequence[object]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict):
            raise TypeError(f"items are set of a {type(target).__name__}")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, str):  # numbers as keys could be chosen to take hours
                raise _Unfit(f"a dict with the key {shown(key)}")
            target[key] = value

    def _name(self, module: object, name: object) -> None:
        found = None
        if isinstance(module, str) and isinstance(name, str):
            found = ALLOWED.get((module, name))
        if found is None:
            raise AnnotationError(
                f"{self._path} is a pickle that asks for {module!s:.80}.{name!s:.80}; {_WANTED}."
                " Nothing in it was run. Write the file again with numpy arrays only, or do not"
                " trust it."
            )
        self._push(found)

    def _reduce(self) -> None:
        function, arguments = self._pop(2)
        if not callable(function) or function is _NoCall or not isinstance(arguments, tuple):
            raise TypeError(f"{shown(function)} is called with {shown(arguments)}")
        self._push(self._counted(function(*arguments)))

    def _build(self) -> None:
        target, state = self._pop(2)
        made: object = target
        if isinstance(target, _Dtype):
            target.state = state
        elif isinstance(target, _Array) and isinstance(state, tuple) and len(state) == 5:
            _, shape, dtype, is_fortran, data = state
            made = _array_of(data, dtype, shape, is_fortran=bool(is_fortran))
            # A pickle refers to the array by what it was before it had a state.
            target.value = made
        else:
            raise TypeError(f"state is set of a {type(target).__name__}")
        self._push(self._counted(made))

    def _counted(self, made: object) -> object:
        size = made.nbytes if isinstance(made, np.ndarray) else 0
        self._left -= len(made) if isinstance(made, bytes) else size
        if self._left < 0:
            raise _Unfit("more than is in the file: the same bytes again and again")
        return made


class _Clamped:
    """A file whose reads are limited to its size, whatever size a pickle states."""

    def __init__(self, file: BinaryIO, num_bytes: int) -> None:
        self._file, self._num_bytes = file, num_bytes
        self.readline, self.tell = file.readline, file.tell

    def read(self, count: int) -> bytes:
        if count > 1 << 16:
            count = min(count, max(self._num_bytes - self.tell(), 0))
        return self._file.read(count)


def load_numpy_pickle(path: Path) -> object:
    """Return the value in a pickle of plain values and numpy arrays; see `PlainPickles.load`."""
    with path.open("rb") as file:
        return PlainPickles(file, num_bytes=path.stat().st_size, path=path).load()
