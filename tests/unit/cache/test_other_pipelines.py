"""Other people's pipelines read the shards: plain webdataset, Hugging Face datasets, and ours."""

import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import webdataset
from datasets import load_dataset
from numpy.typing import NDArray

from helpers.files import flip_bit
from regionspot.cache import (
    CodecName,
    FeatureCache,
    read_sidecar,
    shard_path,
    sidecar_path,
    webdataset_pipeline,
)
from regionspot.core.errors import CacheCorruptError

# webdataset leaves closing its tars to the garbage collector
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def cache(make_module_cache: Callable[..., Path], request: pytest.FixtureRequest) -> FeatureCache:
    return FeatureCache.open(make_module_cache(request.node.name, empty=(3,)))


def tars(cache: FeatureCache) -> list[str]:
    return sorted(map(str, cache.path.glob("shards/*.tar")))


def check_same(cache: FeatureCache, samples: Iterator[dict[str, Any]], *, tolerance: float) -> None:
    found = list(samples)
    assert [one["__key__"] for one in found] == [cache.index.key(i) for i in range(len(cache))]
    for index, one in enumerate(found):
        wanted = cache.sample(index)
        features: NDArray[np.float32] = cache.features(wanted).float().numpy()
        np.testing.assert_allclose(one["feature_map.npy"], features, atol=tolerance)
        for name in ("position_tokens", "boxes_xyxy", "labels", "box_scores"):
            stored = getattr(wanted, name)
            np.testing.assert_array_equal(
                np.asarray(one[f"{name}.npy"], stored.dtype).reshape(stored.shape), stored
            )
        assert one["json"]["image_id"] == wanted.image_id
        assert tuple(one["json"]["size_hw"]) == wanted.size_hw


@pytest.mark.parametrize("codec", ["float16", "bfloat16", "int8"])
def test_the_pipeline_gives_what_the_cache_gives(
    codec: CodecName, make_module_cache: Callable[..., Path]
) -> None:
    cache = FeatureCache.open(make_module_cache(codec, codec=codec, empty=(3,)))
    check_same(cache, iter(webdataset_pipeline(cache)), tolerance=0)


def test_the_pipeline_continues_as_any_other(cache: FeatureCache) -> None:
    pipeline = (
        webdataset_pipeline(cache, shard_shuffle=True).shuffle(10).to_tuple("__key__", "json")
    )
    rows = list(pipeline)
    assert sorted(key for key, _ in rows) == [cache.index.key(i) for i in range(len(cache))]
    assert all(json["key"] == key for key, json in rows)
    again = pickle.loads(pickle.dumps(webdataset_pipeline(cache)))  # noqa: S301 - workers do so
    check_same(cache, iter(again), tolerance=0)


def test_a_flipped_bit_of_any_member_is_found(cache: FeatureCache) -> None:
    sidecar = read_sidecar(cache.path, 1)
    for column, member in enumerate(cache.manifest.members):
        path = shard_path(cache.path, 1)
        before = path.read_bytes()
        flip_bit(path, int(sidecar.offsets[2, column] + sidecar.lengths[2, column] - 1))
        with pytest.raises(CacheCorruptError, match=f"{sidecar.keys[2]}.{member}"):
            list(webdataset_pipeline(cache))
        path.write_bytes(before)
    flip_bit(sidecar_path(cache.path, 1), 100)
    with pytest.raises(CacheCorruptError, match=r"000001\.json"):
        list(webdataset_pipeline(cache))


def test_plain_webdataset_reads_the_shards(cache: FeatureCache) -> None:
    samples = webdataset.WebDataset(tars(cache), shardshuffle=False).decode()
    check_same(cache, iter(samples), tolerance=0)


def test_hugging_face_datasets_streams_the_shards(
    cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    stream = load_dataset(
        "webdataset", data_files={"train": tars(cache)}, split="train", streaming=True
    )
    check_same(cache, iter(stream), tolerance=0)


def test_the_page_shows_what_works(
    cache: FeatureCache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = Path(__file__).parents[3] / "docs" / "other_pipelines.md"
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M)
    assert len(blocks) == 3
    (tmp_path / "runs" / "quickstart" / "cache").mkdir(parents=True)
    (tmp_path / "runs" / "quickstart" / "cache" / "val").symlink_to(cache.path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    for block in blocks:
        exec(block, {})  # noqa: S102
        lines = capsys.readouterr().out.splitlines()
        assert sorted(line.split()[0] for line in lines) == [
            cache.index.key(index) for index in range(len(cache))
        ]
