"""What is copied by address is what a sample's views show there."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from regionspot.cache import BatchTargets, FeatureCache
from regionspot.core.errors import ShapeError

MakeCache = Callable[..., Path]


def empty_batch(cache: FeatureCache, batch_size: int, num_regions: int) -> list[Tensor]:
    manifest = cache.manifest
    form, token_dim = manifest.feature_map_form, manifest.fingerprint.token_dim
    return [
        torch.full((batch_size, *form.shape), 7, dtype=manifest.feature_codec.torch_dtype),
        torch.full((batch_size, num_regions, token_dim), 7, dtype=torch.float16),
        torch.full((batch_size, num_regions, 4), 7.0),
        torch.full((batch_size, num_regions), 7),
        torch.full((batch_size, num_regions), 7.0),
    ]


def targets(cache: FeatureCache, tensors: list[Tensor]) -> BatchTargets:
    manifest = cache.manifest
    return BatchTargets(
        tensors,
        feature_map_shape=manifest.feature_map_form.shape,
        feature_map_dtype=manifest.feature_codec.torch_dtype,
        token_dim=manifest.fingerprint.token_dim,
    )


def bytes_of(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("codec", ["float16", "bfloat16", "int8"])
def test_rows_are_the_samples_and_what_lies_behind_them_is_left_alone(
    codec: str, make_cache: MakeCache
) -> None:
    with FeatureCache.open(make_cache(codec=codec, empty={3})) as cache:
        arrays = empty_batch(cache, 5, 6)
        images = np.array([11, 3, 0, 11])
        cache.copy_arrays(images, targets(cache, arrays))
        for row, image in enumerate(images.tolist()):
            sample = cache.sample(image)
            for tensor, stored in zip(arrays, sample.arrays, strict=True):
                assert bytes_of(tensor[row, : len(stored)]) == stored.tobytes()
                assert (tensor[row, len(stored) :] == 7).all()
        assert all((array[4] == 7).all() for array in arrays)


@pytest.mark.parametrize("spoiled", range(5))
def test_arrays_that_what_is_stored_does_not_fit_are_refused(
    spoiled: int, make_cache: MakeCache
) -> None:
    with FeatureCache.open(make_cache()) as cache:
        whole = empty_batch(cache, 4, 6)
        for other in (
            whole[spoiled].to(torch.complex64),  # wider numbers
            whole[spoiled][:3],  # too few images
            whole[spoiled].transpose(0, 1).contiguous().transpose(0, 1),  # in another order
            whole[spoiled].to("meta"),  # elsewhere
        ):
            arrays = [*whole]
            arrays[spoiled] = other
            with pytest.raises(ShapeError, match="to be filled"):
                targets(cache, arrays)


def test_more_than_there_is_room_for_is_refused(make_cache: MakeCache) -> None:
    with FeatureCache.open(make_cache()) as cache:  # image 3 has 4 regions
        arrays = empty_batch(cache, 2, 3)
        with pytest.raises(ShapeError, match="image 1 with 4 regions does not fit"):
            cache.copy_arrays(np.array([0, 3]), targets(cache, arrays))
        with pytest.raises(ShapeError, match="image 2 with 1 regions does not fit"):
            cache.copy_arrays(np.array([0, 0, 0]), targets(cache, arrays))


@pytest.mark.parametrize("image", [-1, 12])
def test_an_image_that_is_not_there_is_refused(image: int, make_cache: MakeCache) -> None:
    with FeatureCache.open(make_cache()) as cache:
        arrays = empty_batch(cache, 1, 6)
        with pytest.raises(IndexError, match="image -1 is not among|index 12 is out of bounds"):
            cache.copy_arrays(np.array([image]), targets(cache, arrays))
