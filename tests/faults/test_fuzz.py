"""Thousands of files that are wrong in some way: each is read, or refused by an error of ours.

`make test-slow` tries 2,000 files of each kind, the same in every run; a few go through
`make test`, so that a target that no longer fits its reader is seen at once.
"""

import json
import pickle
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.mutations import as_json, changed_bytes, changed_json
from regionspot.annotations import (
    ReadOptions,
    decode_mask,
    read_annotations,
    read_detections,
    read_proposals,
)
from regionspot.cache import (
    FeatureCache,
    ShardReader,
    manifest_path,
    quarantine_path,
    read_manifest,
    read_quarantine,
    read_sidecar,
    shard_path,
    sidecar_path,
    verify_cache,
)
from regionspot.core.errors import RegionSpotError
from regionspot.core.vocabulary import Vocabulary
from regionspot.model import (
    FusionHead,
    HeadCard,
    HeadSpec,
    RegionClassifier,
    TrainedHead,
    load_trained_head,
    save_trained_head,
)
from regionspot.scoring import LvisGroundTruth, Predictions

MANY = settings(
    max_examples=2000,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    print_blob=False,
)
FEW = settings(MANY, max_examples=25)

RLE: dict[str, Any] = {"size": [64, 96], "counts": [10, 20, 6114]}
LVIS = {
    "info": {"year": 2020},
    "images": [
        {
            "id": number,
            "width": 96,
            "height": 64,
            "file_name": f"{number}.jpg",
            "coco_url": f"http://images.cocodataset.org/train2017/{number}.jpg",
            "not_exhaustive_category_ids": [1],
            "neg_category_ids": [2],
        }
        for number in (7, 9)
    ],
    "categories": [
        {"id": 1, "name": "cat", "frequency": "r", "synonyms": ["cat", "puss"]},
        {"id": 2, "name": "dog", "frequency": "f", "synonyms": ["dog"]},
    ],
    "annotations": [
        {
            "id": 100 + number,
            "image_id": image,
            "category_id": category,
            "bbox": [4.5, 3.0, 20.0, 10.0],
            "area": 200.0,
            "iscrowd": 0,
            "segmentation": segmentation,
        }
        for number, (image, category, segmentation) in enumerate(
            [(7, 1, [[4.5, 3, 24, 3, 24, 13]]), (7, 2, RLE), (9, 1, RLE | {"counts": "Pb0k0Dh2"})]
        )
    ],
}
COCO_RESULTS = [
    {"image_id": 7, "category_id": 1, "bbox": [4.5, 3.0, 20.0, 10.0], "score": 0.5},
    {"image_id": 9, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 1, "segmentation": RLE},
]
GLIP = {
    "7": {"boxes": [[1, 2, 3, 4], [5, 6, 7, 8.5]], "scores": [0.5, 1]},
    "9": {"boxes": [], "scores": []},
}
NAMES = "cat\ndog\ncaf\u00e9 au lait\nbat_(animal)\n".encode()
PROPOSALS = {
    "boxes": [np.array([[1, 2, 4, 6], [0, 0, 9, 9]], np.float32), np.zeros((0, 4), np.float32)],
    "objectness_logits": [np.array([0, 2], np.float32), np.zeros(0, np.float32)],
    "ids": [np.int64(139), "285"],
    "bbox_mode": 0,
}
OPCODES = b"()]}abeslrtqjhgcRbN.0KMJIGUTXVB8C\x8a\x8b\x8c\x8d\x8e\x94\x93\x85\x86\x87\x88\x89"


def pickled(protocol: int) -> bytes:
    return pickle.dumps(PROPOSALS, protocol)


@st.composite
def changed_programs(draw: st.DrawFn) -> bytes:
    """A pickle with instructions put anywhere into it."""
    data = pickled(draw(st.integers(0, 5)))
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(2, len(data)))
        code = draw(st.sampled_from(OPCODES))
        data = data[:place] + bytes([code]) + draw(st.binary(max_size=4)) + data[place:]
    return data


PICKLES = st.one_of(st.integers(0, 5).map(pickled).flatmap(changed_bytes), changed_programs())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def resealed(value: Any) -> bytes:
    """Seal a value as the cache does, so that only what it says is wrong."""
    whole = {"schema_version": 4, **value} if isinstance(value, dict) else {"value": value}
    body = as_json(whole).removesuffix(b"}")
    return body + f',\n"sha256": "{sha256(body).hexdigest()}"\n}}\n'.encode()


def unsealed(path: Path) -> Any:
    value = json.loads(path.read_bytes())
    return {key: value[key] for key in value if key not in {"sha256", "schema_version"}}


def is_read_or_refused(read: Callable[[], object]) -> None:
    """Let any other error through."""
    with suppress(RegionSpotError):
        read()


def opened(cache_dir: Path) -> object:
    read_manifest(cache_dir)
    return FeatureCache.open(cache_dir)


def verified(cache_dir: Path) -> object:
    problems = verify_cache(cache_dir)
    return ShardReader(shard_path(cache_dir, 0), read_sidecar(cache_dir, 0)), problems


def vocabulary(path: Path) -> object:
    return Vocabulary.from_file(path)


def ground_truth(path: Path) -> object:
    return LvisGroundTruth.read(path)


def masks(path: Path) -> object:
    records = read_annotations("coco", path, None, options=ReadOptions(prompt="mask")).records
    return [
        decode_mask(text, record.annotated_size_hw)
        for record in records
        for text in record.prompts or ()
        if record.annotated_size_hw is not None
    ]


def annotations(path: Path) -> object:
    return list(read_annotations("lvis", path, None).records)


def pickled_proposals(path: Path) -> object:
    return list(read_detections(path).images)


READERS: dict[str, tuple[st.SearchStrategy[bytes], Callable[[Path], object]]] = {
    "vocabulary": (changed_bytes(NAMES), vocabulary),
    "ground truth": (changed_json(LVIS), ground_truth),
    "masks": (changed_json(LVIS), masks),
    "annotations": (changed_json(LVIS), annotations),
    "proposals": (changed_json(COCO_RESULTS), read_proposals),
    "proposals of GLIP": (changed_json(GLIP), read_proposals),
    "results": (changed_json(COCO_RESULTS), Predictions.read_lvis_json),
    "proposals' pickles": (PICKLES, pickled_proposals),
}


def try_all(
    files: st.SearchStrategy[bytes], path: Path, read: Callable[[], object], *, amount: settings
) -> None:
    """Write files to a path, and read each."""

    @amount
    @given(files)
    def one(data: bytes) -> None:
        path.write_bytes(data)
        is_read_or_refused(read)

    one()


AMOUNTS = [pytest.param(FEW, id="few"), pytest.param(MANY, id="many", marks=pytest.mark.slow)]


@pytest.mark.parametrize("amount", AMOUNTS)
@pytest.mark.parametrize("kind", READERS)
def test_changed_files_are_read_or_refused(kind: str, folder: Path, amount: settings) -> None:
    files, read = READERS[kind]
    path = folder / "file"
    try_all(files, path, lambda: read(path), amount=amount)


@pytest.mark.parametrize("amount", AMOUNTS)
def test_changed_predictions_of_detectron2_are(folder: Path, amount: settings) -> None:
    path = folder / "predictions.pth"
    torch.save([{"image_id": 7, "instances": COCO_RESULTS}], path)
    files = changed_bytes(path.read_bytes())
    try_all(files, path, lambda: pickled_proposals(path), amount=amount)


@pytest.mark.parametrize("amount", AMOUNTS)
def test_changed_manifests_are(make_cache: Callable[..., Path], amount: settings) -> None:
    cache_dir = make_cache("fuzzed")
    path = manifest_path(cache_dir)
    files = changed_json(unsealed(path), resealed)
    try_all(files, path, lambda: opened(cache_dir), amount=amount)


@pytest.mark.parametrize("amount", AMOUNTS)
def test_changed_sidecars_are(make_cache: Callable[..., Path], amount: settings) -> None:
    cache_dir = make_cache("fuzzed")
    path = sidecar_path(cache_dir, 0)
    files = changed_json(unsealed(path), resealed)
    try_all(files, path, lambda: verified(cache_dir), amount=amount)


@pytest.mark.parametrize("amount", AMOUNTS)
def test_changed_lists_of_quarantined_images_are(tmp_path: Path, amount: settings) -> None:
    row = {"shard": 1, "key": "a", "image_id": 4, "file_name": "a.jpg", "reason": "is empty"}
    path = quarantine_path(tmp_path)
    try_all(changed_json(row), path, lambda: read_quarantine(tmp_path), amount=amount)


@pytest.mark.parametrize("amount", AMOUNTS)
def test_changed_cards_of_heads_are(
    make_cache: Callable[..., Path], tmp_path: Path, amount: settings
) -> None:
    fingerprint = read_manifest(make_cache("fuzzed")).fingerprint
    head = FusionHead(
        HeadSpec(token_dim=8, feature_dim=16, text_dim=6, num_blocks=1, num_heads=2, ffn_dim=4)
    )
    card = HeadCard(
        head=head.spec,
        scale=20.0,
        bias=0.0,
        fingerprint=fingerprint.to_dict(),
        vocabulary=("cat", "dog"),
        templates="single",
    )
    classifier = RegionClassifier(20.0, 0.0)
    save_trained_head(tmp_path, TrainedHead(head=head, classifier=classifier, card=card))
    path = tmp_path / "head.json"
    files = changed_json(json.loads(path.read_bytes()))
    try_all(files, path, lambda: load_trained_head(tmp_path), amount=amount)
