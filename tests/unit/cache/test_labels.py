import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from regionspot.cache import FeatureCache, read_labels
from regionspot.core.errors import CacheCorruptError


def labels_in_tars(folder: Path) -> list[int]:
    """Read the labels with tarfile and NumPy."""
    found: list[int] = []
    for path in sorted(folder.glob("shards/*.tar")):
        with tarfile.open(path) as tar:
            for member in tar.getmembers():
                if member.name.endswith(".labels.npy"):
                    content = tar.extractfile(member)
                    assert content is not None
                    found += np.load(io.BytesIO(content.read())).tolist()
    return found


def test_labels_are_those_in_the_tars_in_the_order_of_the_cache(cache_dir: Path) -> None:
    with FeatureCache.open(cache_dir) as cache:
        labels = read_labels(cache)
        assert len(labels) == 5
        assert labels.tolist() == labels_in_tars(cache_dir)
        ends = np.cumsum(cache.index.num_regions)
        assert labels[ends[3] : ends[4]].tolist() == cache.sample(4).labels.tolist()


@pytest.mark.parametrize("change", [1, -100, 100, 2**32])
def test_labels_that_the_index_did_not_count_are_refused(cache_dir: Path, change: int) -> None:
    with FeatureCache.open(cache_dir) as cache:
        offset, label = int(cache.index.data_offsets[2, 3]), int(cache.sample(2).labels[0])
    path = cache_dir / "shards" / "000000.tar"
    content = bytearray(path.read_bytes())
    content[offset : offset + 8] = np.int64(label + change).tobytes()
    path.write_bytes(content)
    with (
        FeatureCache.open(cache_dir) as cache,
        pytest.raises(CacheCorruptError, match="tiny holds other labels .*cache verify"),
    ):
        read_labels(cache)


def test_a_tar_that_was_cut_short_is_refused(cache_dir: Path) -> None:
    with FeatureCache.open(cache_dir) as cache:
        path = cache_dir / "shards" / "000001.tar"
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(CacheCorruptError, match="other labels"):
            read_labels(cache)
