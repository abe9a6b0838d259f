"""The document is a promise: its reader, which knows nothing of this library, reads our caches."""

import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.format3 import unpack_format3
from regionspot.cache import (
    CachedSample,
    CacheIndex,
    CodecName,
    Fingerprint,
    find_codec,
)

DOCUMENT = Path(__file__).parents[3] / "docs" / "cache_format.md"


@pytest.fixture(scope="module")
def text() -> str:
    return DOCUMENT.read_text(encoding="utf-8")


@pytest.mark.parametrize("cache_format", [3, 4])
def test_the_reader_in_the_document_reads_a_cache(
    text: str,
    cache_dir: Path,
    make_sample: Callable[[int], CachedSample],
    tmp_path: Path,
    cache_format: int,
) -> None:
    if cache_format == 3:
        cache_dir = unpack_format3(tmp_path / "format 3")
    found = re.search(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert found is not None
    names: dict[str, Any] = {}
    exec(found[1], names)  # noqa: S102
    for position, number in enumerate((0, 1, 2, 3, 5, 6)):
        image, wanted = names["read_image"](cache_dir, position), make_sample(number)
        assert (image["key"], image["image_id"]) == (wanted.key, wanted.image_id)
        assert image["size_hw"] == list(wanted.size_hw)
        np.testing.assert_array_equal(image["feature_map"], wanted.feature_map)
        np.testing.assert_array_equal(image["position_tokens"], wanted.position_tokens)
        np.testing.assert_array_equal(image["boxes_xyxy"], wanted.boxes_xyxy)
        np.testing.assert_array_equal(image["labels"], wanted.labels)
        np.testing.assert_array_equal(image["box_scores"], wanted.box_scores)
        if cache_format == 4:
            np.testing.assert_array_equal(image["predicted_iou"], wanted.predicted_iou)
            assert tuple(image["masks_rle"]) == wanted.masks_rle
            assert image["file_name"] == wanted.file_name


@pytest.mark.parametrize("codec", ["bfloat16", "int8"])
def test_the_reader_in_the_document_decodes_what_we_encode(text: str, codec: CodecName) -> None:
    found = re.search(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert found is not None
    names: dict[str, Any] = {}
    exec(found[1], names)  # noqa: S102
    features = torch.from_numpy(np.random.default_rng(0).standard_normal((5, 24), np.float32))
    features[:, 7] *= 100
    ours = find_codec(codec)
    stored = ours.encode(features)
    theirs = names["decoded"](ours.to_array(stored))
    np.testing.assert_array_equal(theirs, ours.decode(stored).float().numpy())


def test_the_document_names_every_field(text: str) -> None:
    derived = {"shard_starts"}
    for field in (*fields(Fingerprint), *fields(CacheIndex)):
        assert f"`{field.name}`" in text or field.name in derived, field.name
