import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from regionspot.cache import encode_array
from regionspot.core.errors import ShapeError

ARRAYS = hnp.arrays(
    dtype=st.sampled_from(["<f2", "<f4", "<f8", "<i4", "<i8", "|u1", "|b1", ">f4"]),
    shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
)

THREE_HALVES = (
    b"\x93NUMPY\x01\x00\x76\x00{'descr': '<f2', 'fortran_order': False, 'shape': (1, 3), }"
    + b" " * 58
    + b"\n\x00\x3c\x00\xc0\x00\x38"
)


def test_the_bytes_of_an_array_are_these() -> None:
    array = np.array([[1.0, -2.0, 0.5]], np.float16)
    assert encode_array(array) == THREE_HALVES


@settings(deadline=None)  # the machine may be busy
@given(ARRAYS)
def test_numpy_reads_the_same_array(array: NDArray[Any]) -> None:
    loaded = np.load(io.BytesIO(encode_array(array)), allow_pickle=False)
    np.testing.assert_array_equal(loaded, array)
    assert loaded.shape == array.shape
    assert loaded.dtype == array.dtype.newbyteorder("<")


@settings(deadline=None)  # the machine may be busy
@given(ARRAYS)
def test_numpy_writes_the_same_bytes(array: NDArray[Any]) -> None:
    file = io.BytesIO()
    np.save(
        file, np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"))).reshape(array.shape)
    )
    assert encode_array(array) == file.getvalue()


def test_memory_order_does_not_change_the_bytes() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert encode_array(np.asfortranarray(array)) == encode_array(array)
    assert encode_array(array[:, ::2]) == encode_array(array[:, ::2].copy())


def test_the_data_starts_at_byte_128_whatever_the_shape() -> None:
    for shape in [(), (0, 256), (1,), (257, 1024), (1, 999999, 1)]:
        array = np.zeros(shape, np.float16)
        assert len(encode_array(array)) == 128 + array.nbytes


@pytest.mark.parametrize("array", [np.array([object()]), np.array(["text"]), np.zeros(2, "f4,i8")])
def test_arrays_that_would_need_a_pickle_are_refused(array: NDArray[Any]) -> None:
    with pytest.raises(ShapeError, match="cannot be stored"):
        encode_array(array)


def test_more_sides_than_fit_into_the_header_are_refused() -> None:
    with pytest.raises(ShapeError, match="more sides"):
        encode_array(np.zeros((1,) * 30, np.float32))
