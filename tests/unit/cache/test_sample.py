from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from regionspot.cache import CachedSample
from regionspot.core.errors import AnnotationError, ShapeError


def test_arrays_come_in_the_order_of_the_tar(make_sample: Callable[[int], CachedSample]) -> None:
    sample = make_sample(2)
    assert [array.shape for array in sample.arrays] == [(5, 6), (2, 4), (2, 4), (2,), (2,)]
    assert [str(array.dtype) for array in sample.arrays] == [
        "float16",
        "float16",
        "float32",
        "int64",
        "float32",
    ]
    assert sample.num_regions == 2


@pytest.mark.parametrize("key", ["", "a.b", "a/b", "caf\u00e9", "a b", "x" * 81, "a\n"])
def test_keys_that_webdataset_would_split_are_refused(
    key: str, make_sample: Callable[[int], CachedSample]
) -> None:
    with pytest.raises(AnnotationError, match="key"):
        replace(make_sample(1), key=key)


def test_rows_must_correspond(make_sample: Callable[[int], CachedSample]) -> None:
    with pytest.raises(
        ShapeError, match=r"boxes_xyxy is float32 \(2, 4\); wanted float32 \(1, 4\)"
    ):
        replace(make_sample(1), boxes_xyxy=np.zeros((2, 4), np.float32))
    with pytest.raises(ShapeError, match=r"position_tokens is float16 \(3, 4\)"):
        replace(make_sample(1), position_tokens=np.zeros((3, 4), np.float16))


def test_dtypes_must_be_those_that_are_stored(make_sample: Callable[[int], CachedSample]) -> None:
    sample = make_sample(1)
    with pytest.raises(ShapeError, match="feature_map is float32"):
        replace(sample, feature_map=sample.feature_map.astype(np.float32))


def test_an_image_has_a_size(make_sample: Callable[[int], CachedSample]) -> None:
    with pytest.raises(ShapeError, match="size_hw"):
        replace(make_sample(1), size_hw=(0, 640))
