"""A region index: its numbers, its answers, and what becomes of it when it is cut short.

Oracles: the head on each image alone, plain products in numpy, and the files of an undisturbed run.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from helpers.files import flip_bit, tree
from helpers.heads import random_head
from helpers.processes import kill_at_renames
from helpers.worlds import cache_options, write_world
from regionspot.backbones import FrozenModels
from regionspot.cache import FeatureCache
from regionspot.cli.main import main
from regionspot.core.errors import (
    CacheCorruptError,
    CacheMismatchError,
    ConfigError,
    MissingFileError,
    ShapeError,
    VocabularyError,
)
from regionspot.inference import (
    Hit,
    IndexSource,
    RegionFilter,
    RegionIndex,
    RegionSpot,
    build_region_index,
    find_damage,
)
from regionspot.model import TrainedHead, load_trained_head, save_trained_head

NUM_IMAGES = 8  # a box each, three images a shard
TOP = 5


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    world = write_world(tmp_path_factory.mktemp("world"), NUM_IMAGES)
    rows = ["image,x1,y1,x2,y2,label"]
    for number in range(NUM_IMAGES):
        # no region in 2, three in 5
        boxes = {2: 0, 5: 3}.get(number, 1)
        rows += [f"{number}.png,{1 + k},2,{9 + number + k},20,class {k % 2}" for k in range(boxes)]
    rows.insert(3, "2.png,,,,,")
    (world / "own.csv").write_text("\n".join(rows))
    main(["cache", *cache_options(world / "own.csv", world, world / "cache")])
    return world / "cache"


@pytest.fixture(scope="module")
def head(models: FrozenModels) -> TrainedHead:
    return random_head(models, seed=5, bias=-2.0, templates="single")


@pytest.fixture(scope="module")
def head_dir(head: TrainedHead, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("head")
    save_trained_head(folder, head)
    return folder


@pytest.fixture(scope="module")
def built(cache_dir: Path, head: TrainedHead, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index") / "index"
    with FeatureCache.open(cache_dir) as cache:
        build_region_index(head, cache, folder)
    return folder


@pytest.fixture
def copy(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "index"))


@torch.no_grad()
def embedded(head: TrainedHead, cache: FeatureCache) -> dict[tuple[str, int], NDArray[np.float64]]:
    """Each image alone, no padding; normalised in float64."""
    found = {}
    for position in range(len(cache)):
        sample = cache.sample(position)
        tokens = torch.from_numpy(sample.position_tokens.astype(np.float32))
        if len(tokens):
            rows = head.head(tokens[None], cache.features(sample).float()[None])[0].numpy()
            for region, row in enumerate(rows.astype(np.float64)):
                found[sample.key, region] = row / np.linalg.norm(row)
    return found


def names_of(hits: list[Hit]) -> list[tuple[str, int]]:
    return [(hit.key, hit.region) for hit in hits]


def test_embeddings_are_those_of_the_head_on_each_image_alone(
    built: Path, cache_dir: Path, head: TrainedHead
) -> None:
    index, cache = RegionIndex.open(built), FeatureCache.open(cache_dir)
    wanted = embedded(head, cache)
    assert len(index) == len(wanted) == int(cache.index.num_regions.sum()) == 9
    assert index.num_images == NUM_IMAGES
    for (key, region), row in wanted.items():
        np.testing.assert_allclose(index.embedding(key, region), row, atol=1e-3)
    parts = [np.load(path, mmap_mode="r") for path in sorted(built.glob("parts/*.npy"))]
    np.testing.assert_allclose(np.concatenate(parts), np.stack(list(wanted.values())), atol=1e-3)


def test_text_ranks_regions_as_the_plain_product_of_bank_and_embeddings(
    built: Path, cache_dir: Path, head: TrainedHead, models: FrozenModels
) -> None:
    words = ["plain red circle", "sea egg"]
    bank = models.encoder.text_bank(words, "single").numpy().astype(np.float64)
    index, cache = RegionIndex.open(built), FeatureCache.open(cache_dir)
    wanted = embedded(head, cache)
    rows = np.stack(list(wanted.values()))
    samples = {cache.index.key(i): cache.sample(i) for i in range(len(cache))}
    for hits, query in zip(index.search(words, top=len(rows)), bank, strict=True):
        cosines = rows @ query
        by_name = dict(zip(wanted, cosines, strict=True))
        np.testing.assert_allclose(
            [by_name[name] for name in names_of(hits)], -np.sort(-cosines), atol=1e-3
        )
        for hit in hits:
            sample = samples[hit.key]
            assert hit.image_id == sample.image_id
            assert hit.box_xyxy == tuple(sample.boxes_xyxy[hit.region].tolist())
            assert hit.label == cache.manifest.vocabulary[int(sample.labels[hit.region])]
            assert hit.file_name == f"{sample.image_id}.png"
            logit = float(head.classifier.scale) * by_name[hit.key, hit.region] - 2.0
            assert hit.confidence == pytest.approx(1 / (1 + np.exp(-logit)), abs=5e-3)
            assert hit.score == hit.confidence
    one = index.search(words[1], top=2)
    assert names_of(one) == names_of(index.search(words, top=2)[1])
    model = RegionSpot(head, models)
    assert one == model.search(index, words[1], top=2) == model.search(built, words[1], top=2)


def test_regions_like_one_are_the_nearest_without_it(
    built: Path, cache_dir: Path, head: TrainedHead
) -> None:
    index = RegionIndex.open(built)
    wanted = embedded(head, FeatureCache.open(cache_dir))
    me = ("5-2epng", 1)
    cosines = {name: float(row @ wanted[me]) for name, row in wanted.items() if name != me}
    hits = index.similar(me, top=4)
    assert [hit.cosine for hit in hits] == pytest.approx(sorted(cosines.values())[:-5:-1], abs=2e-3)
    assert all(hit.cosine == pytest.approx(cosines[hit.key, hit.region], abs=2e-3) for hit in hits)
    assert all(hit.confidence is None for hit in hits)
    assert index.similar(hits[0], top=1) == index.similar((hits[0].key, hits[0].region), top=1)
    assert names_of(index.similar(index.embedding(*me), top=1)) == [me]


def test_filters_leave_out_labels_images_and_low_scores(built: Path) -> None:
    index = RegionIndex.open(built)
    everything = index.search("sea egg", top=100)
    assert len(everything) == 9
    for only, wanted in [
        (RegionFilter(not_labelled=["class 0"]), lambda hit: hit.label == "class 1"),
        (RegionFilter(images={"5-2epng", "0-2epng"}), lambda hit: hit.image_id in {0, 5}),
        (
            RegionFilter(min_score=everything[4].score),
            lambda hit: hit.score >= everything[4].score,
        ),
    ]:
        assert index.search("sea egg", top=100, only=only) == list(filter(wanted, everything))
    assert index.search("sea egg", only=RegionFilter(images=["2-2epng"])) == []


def test_questions_without_an_answer_are_refused(built: Path, tmp_path: Path) -> None:
    index = RegionIndex.open(built)
    with pytest.raises(VocabularyError, match="'lantern'"):
        index.search("red lantern")
    with pytest.raises(ConfigError, match="top is 0"):
        index.search("sea egg", top=0)
    with pytest.raises(ConfigError, match="'class 3' is not among the 2.* Did you mean 'class"):
        index.search("sea egg", only=RegionFilter(not_labelled=["class 3"]))
    with pytest.raises(ConfigError, match="no image 'nowhere'"):
        index.search("sea egg", only=RegionFilter(images=["nowhere", "0-2epng"]))
    with pytest.raises(ConfigError, match=r"no image 'caf\?' \(1 of 1 keys"):
        index.search("sea egg", only=RegionFilter(images=["caf\u00e9"]))
    with pytest.raises(ConfigError, match="no image 'nowhere'"):
        index.similar(("nowhere", 0))
    with pytest.raises(ConfigError, match="has the regions 0 to 2; found 3"):
        index.similar(("5-2epng", 3))
    with pytest.raises(ConfigError, match="has no regions"):
        index.similar(("2-2epng", 0))
    with pytest.raises(ShapeError, match=r"\(3,\); wanted"):
        index.similar([1.0, 2.0, 3.0])
    with pytest.raises(MissingFileError, match="regionspot index"):
        RegionIndex.open(tmp_path)


def test_an_index_of_another_head_or_cache_is_refused(
    copy: Path,
    cache_dir: Path,
    head: TrainedHead,
    models: FrozenModels,
    make_cache: Callable[..., Path],
) -> None:
    index, cache = RegionIndex.open(copy), FeatureCache.open(cache_dir)
    other_head = random_head(models, seed=6, templates="single")
    with pytest.raises(CacheMismatchError, match="another head"):
        RegionSpot(other_head, models).search(index, "sea egg")
    with pytest.raises(CacheMismatchError, match="another head"):
        build_region_index(other_head, cache, copy)
    source = IndexSource(head_sha256=head.sha256, cache_sha256="0" * 64)
    with pytest.raises(CacheMismatchError, match="another cache"):
        RegionIndex.open(copy, source=source)
    with pytest.raises(CacheMismatchError, match="sam_image_size"):
        build_region_index(head, FeatureCache.open(make_cache()), copy)
    (copy / "index.json").unlink()  # the parts say so themselves
    with pytest.raises(CacheMismatchError, match="another head"):
        build_region_index(other_head, cache, copy)


def test_the_identity_of_a_head_is_that_of_its_file_and_not_that_of_another(
    head: TrainedHead, head_dir: Path, models: FrozenModels
) -> None:
    assert load_trained_head(head_dir).sha256 == head.sha256
    assert random_head(models, seed=6, bias=-2.0).sha256 != head.sha256
    assert random_head(models, seed=5, bias=-2.5).sha256 != head.sha256


def test_a_killed_command_leaves_whole_files_and_ends_in_the_same_bytes(
    built: Path, cache_dir: Path, head_dir: Path, tmp_path: Path
) -> None:
    wanted = tree(built)
    assert len(wanted) == 7  # three parts of two files, and the card
    words = ["index", str(cache_dir), "--head", str(head_dir), "--device", "cpu", "--output"]
    folder = tmp_path / "index"
    assert kill_at_renames([*words, str(folder)], [4]) == [-9]
    left = {name: data for name, data in tree(folder).items() if not name.endswith(".tmp")}
    assert len(left) == 3
    assert left.items() <= wanted.items()
    with pytest.raises(MissingFileError, match="regionspot index"):
        RegionIndex.open(folder)
    main([*words, str(folder)])
    assert tree(folder) == wanted


def test_damage_anywhere_is_found_and_made_again(
    built: Path, copy: Path, cache_dir: Path, head: TrainedHead
) -> None:
    wanted, rng = tree(built), np.random.default_rng(0)
    with FeatureCache.open(cache_dir) as cache:
        for name, content in wanted.items():
            path = copy / name
            flip_bit(path, int(rng.integers(len(content))), int(rng.integers(8)))
            assert len(find_damage(copy)) == 1, name
            with pytest.raises(CacheCorruptError, match=path.name):
                RegionIndex.open(copy).search("sea egg", only=RegionFilter(images=["0-2epng"]))
            if name == "index.json":
                path.unlink()  # the command asks for that
            build_region_index(head, cache, copy)
            assert tree(copy) == wanted
        for name in wanted:
            path = copy / name
            path.write_bytes(path.read_bytes()[:-1])
            assert len(find_damage(copy)) == 1, name
            path.write_bytes(wanted[name])
    assert find_damage(copy) == []
