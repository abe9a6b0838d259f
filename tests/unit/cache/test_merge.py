"""Caches that become one: every byte of every image is there again, and nothing else."""

import json
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset

from helpers.files import flip_bit, tree
from helpers.processes import kill_at_renames
from regionspot.cache import (
    CachedSample,
    CacheMerge,
    FeatureCache,
    Manifest,
    Plan,
    QuarantinedImage,
    TextBankStore,
    build_index,
    check_same_manifest,
    read_category_tree,
    text_banks_path,
    verify_cache,
    write_category_tree,
    write_manifest,
    write_shard,
)
from regionspot.cli.main import main
from regionspot.core.errors import (
    AnnotationError,
    CacheCorruptError,
    CacheMismatchError,
    ConfigError,
)
from regionspot.core.vocabulary import Vocabulary

# webdataset leaves closing its tars to the garbage collector
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

LEFT_OUT = (3, 9)
"""Images that no source could use."""

Source = Callable[..., Path]


def key(number: int) -> str:
    return f"img_{number}"


@pytest.fixture
def source(
    tmp_path: Path, manifest: Manifest, make_sample: Callable[[int], CachedSample]
) -> Source:
    """Return a function that writes a finished cache of some images."""

    def write(name: str, numbers: Sequence[int], *, images_per_shard: int = 3, **more: Any) -> Path:
        folder = tmp_path / name
        plan = Plan.from_keys(list(map(key, numbers)), images_per_shard=images_per_shard)
        write_manifest(
            folder, replace(manifest, name=name, annotation_sha256="b" * 64, plan=plan, **more)
        )
        for shard in range(plan.num_shards):
            own = [numbers[place] for place in plan.images_of(shard)]
            write_shard(
                folder,
                shard,
                [make_sample(number) for number in own if number not in LEFT_OUT],
                [
                    QuarantinedImage(
                        key=key(number), image_id=100 + number, file_name="a.jpg", reason="is empty"
                    )
                    for number in own
                    if number in LEFT_OUT
                ],
            )
        build_index(folder)
        return folder

    return write


@pytest.fixture
def sources(source: Source) -> list[Path]:
    return [source("one", range(5)), source("two", range(7, 11), images_per_shard=2)]


def put_bank(cache: Path, templates: str, *, number: int) -> None:
    with FeatureCache.open(cache) as opened:
        manifest = opened.manifest
    bank = np.roll(np.eye(3, dtype=np.float32), number, axis=0)
    TextBankStore(text_banks_path(cache)).put(
        manifest.vocabulary,
        bank,
        templates=templates,
        clip_sha256=manifest.fingerprint.clip_weights_sha256,
    )


def stock_samples(cache: Path) -> list[dict[str, Any]]:
    """Return all members of all images, as the stock reader finds them."""
    paths = [str(path) for path in sorted(cache.glob("shards/*.tar"))]
    samples = list(webdataset.WebDataset(paths, shardshuffle=False))
    return [
        {name: value for name, value in sample.items() if name not in {"__url__", "__local_path__"}}
        for sample in samples
    ]


def words(output_dir: Path, sources: Sequence[Path], *more: str) -> list[str]:
    return [
        *("cache", "merge", "--output_dir", str(output_dir), "--images_per_shard", "4"),
        *(*more, *map(str, sources)),
    ]


# --- What there is ---------------------------------------------------------------------------


def test_the_stock_reader_finds_the_bytes_of_all_sources_in_their_order(
    sources: list[Path], tmp_path: Path
) -> None:
    main(words(tmp_path / "merged", sources))
    wanted = stock_samples(sources[0]) + stock_samples(sources[1])
    assert stock_samples(tmp_path / "merged") == wanted
    numbers = [0, 1, 2, 4, 7, 8, 10]
    assert [sample["__key__"] for sample in wanted] == list(map(key, numbers))
    assert verify_cache(tmp_path / "merged") == []


def test_shards_are_cut_by_the_new_plan_and_left_out_images_are_carried_over(
    sources: list[Path], tmp_path: Path
) -> None:
    main(words(tmp_path / "merged", sources))
    shards = [
        json.loads((tmp_path / "merged" / "shards" / f"00000{shard}.json").read_text())
        for shard in range(3)
    ]
    # Of each shard of a source those that it left out come last: 0 1 2, 4 3, 7 8, 10 9.
    assert [shard["keys"] for shard in shards] == [
        list(map(key, [0, 1, 2, 4])),
        list(map(key, [7, 8, 10])),
        [],
    ]
    left_out = [json.loads(line) for line in _lines(tmp_path / "merged" / "quarantine.jsonl")]
    assert [(image["key"], image["shard"]) for image in left_out] == [("img_3", 1), ("img_9", 2)]
    assert left_out[0] | {"shard": 0} == json.loads(
        '{"file_name":"a.jpg","image_id":103,"key":"img_3","reason":"is empty","shard":0}'
    )


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_the_manifest_tells_what_was_merged(sources: list[Path], tmp_path: Path) -> None:
    main(words(tmp_path / "merged", sources))
    main(words(tmp_path / "turned", sources[::-1], "--name", "both"))
    merged, turned, one = (
        json.loads((folder / "manifest.json").read_text())
        for folder in (tmp_path / "merged", tmp_path / "turned", sources[0])
    )
    assert (merged["name"], turned["name"]) == ("one + two", "both")
    assert (merged["annotation_format"], merged["reused"]) == ("merged", None)
    assert merged["annotation_sha256"] != turned["annotation_sha256"]
    for field in ("fingerprint", "vocabulary", "category_ids", "prompt", "proposals"):
        assert merged[field] == one[field]


def test_text_banks_and_the_category_tree_come_along(sources: list[Path], tmp_path: Path) -> None:
    put_bank(sources[0], "single", number=0)
    put_bank(sources[1], "single", number=1)
    put_bank(sources[1], "none", number=2)
    write_category_tree(sources[1], [[1], [], []])
    main(words(tmp_path / "merged", sources))
    with FeatureCache.open(tmp_path / "merged") as merged:
        np.testing.assert_array_equal(merged.text_bank("single"), np.eye(3))
        np.testing.assert_array_equal(merged.text_bank("none"), np.roll(np.eye(3), 2, axis=0))
    assert read_category_tree(tmp_path / "merged") == ((1,), (), ())


def test_the_last_lines_count(
    sources: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(words(tmp_path / "merged", sources))
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path / 'merged'}: 7 images of 2 caches, 8 regions, 3 shards",
        "left out of the merged caches: 2 images",
        "3 shards written",
    ]
    main(words(tmp_path / "merged", sources))
    assert capsys.readouterr().out.splitlines()[-1] == "already complete"


# --- Stopped, and damaged --------------------------------------------------------------------


def test_killed_merges_end_in_the_same_bytes(sources: list[Path], tmp_path: Path) -> None:
    put_bank(sources[0], "single", number=0)
    main(words(tmp_path / "undisturbed", sources))
    again = words(tmp_path / "killed", sources)
    # The manifest, the bank, and tar and sidecar of a shard are renamed: nothing is left, then a
    # manifest, a tar without a sidecar, a shard, and all but the index.
    numbers = [1, 2, 3, 3, 6]
    assert kill_at_renames(again, numbers) == [-signal.SIGKILL] * len(numbers)
    main(again)
    assert tree(tmp_path / "killed") == tree(tmp_path / "undisturbed")


@pytest.mark.parametrize(
    "name",
    ["shards/000001.tar", "shards/000000.json", "manifest.json", "index.h5", "text_banks.h5"],
)
def test_repair_makes_just_the_damaged_parts_again(
    sources: list[Path], tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    put_bank(sources[0], "single", number=0)
    merged = tmp_path / "merged"
    main(words(merged, sources))
    before = tree(merged)
    whole = merged / "shards" / "000002.tar"
    written = whole.stat().st_mtime_ns
    flip_bit(merged / name, 700)
    main(words(merged, sources, "--repair"))
    assert tree(merged) == before
    assert whole.stat().st_mtime_ns == written
    assert "problems found and repaired" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["shards/000001.json", "index.h5", "manifest.json"])
def test_a_damaged_source_is_refused_before_anything_is_written(
    sources: list[Path], tmp_path: Path, name: str
) -> None:
    flip_bit(sources[0] / name, 600)
    with pytest.raises(CacheCorruptError, match=str(sources[0] / name)):
        CacheMerge(sources, images_per_shard=4)


@pytest.mark.parametrize("position", [700, 2000])  # of a json member, of a feature map
def test_a_flipped_bit_of_a_source_stops_with_its_name_and_what_to_type(
    sources: list[Path], tmp_path: Path, position: int, capsys: pytest.CaptureFixture[str]
) -> None:
    tar = sources[1] / "shards" / "000001.tar"
    before = tar.read_bytes()
    flip_bit(tar, position)
    with pytest.raises(SystemExit) as exit_info:
        main(words(tmp_path / "merged", sources))
    assert exit_info.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: {tar} is damaged: ")
    assert "regionspot cache repair" in message
    written = [path.name for path in (tmp_path / "merged" / "shards").glob("*.json")]
    assert sorted(written) == ["000000.json"]
    tar.write_bytes(before)
    main(words(tmp_path / "merged", sources))
    assert verify_cache(tmp_path / "merged") == []


# --- What is refused -------------------------------------------------------------------------


def test_a_key_in_two_sources_is_refused_naming_the_first(source: Source) -> None:
    one, two = source("one", range(5)), source("two", [8, 4, 2])
    message = f"{one} and {two} both have an image with the key 'img_4'"
    with pytest.raises(AnnotationError, match=message):
        CacheMerge([one, two], images_per_shard=4)


def test_other_classes_are_refused_with_the_advice_to_mix(source: Source) -> None:
    one = source("one", range(5))
    two = source("two", [7], vocabulary=Vocabulary(("lemon", "lime", "tennis ball")))
    with pytest.raises(CacheMismatchError) as error:
        CacheMerge([one, two], images_per_shard=4)
    assert "vocabulary: label 1: found 'lime', wanted 'caf\u00e9'" in str(error.value)
    assert f"--data.train '[{one}, {two}]'" in str(error.value)


def test_other_models_and_prompts_are_refused_naming_the_fields(
    source: Source, manifest: Manifest
) -> None:
    one = source("one", range(5))
    other = replace(manifest.fingerprint, sam_model="vit_h")
    two = source("two", [7], fingerprint=other, prompt="mask")
    with pytest.raises(CacheMismatchError) as error:
        CacheMerge([one, two], images_per_shard=4)
    assert "fingerprint.sam_model: found 'vit_h', wanted 'vit_b'" in str(error.value)
    assert "prompt: found 'mask', wanted 'box'" in str(error.value)
    assert "--data.train" not in str(error.value)
    stored = source("three", [7], precision="bfloat16")
    with pytest.raises(CacheMismatchError, match="precision: found 'bfloat16', wanted 'float32'"):
        CacheMerge([one, stored], images_per_shard=4)


def test_trees_that_differ_are_refused(sources: list[Path]) -> None:
    write_category_tree(sources[0], [[1], [], []])
    write_category_tree(sources[1], [[2], [], []])
    with pytest.raises(CacheMismatchError, match="has another category tree than"):
        CacheMerge(sources, images_per_shard=4)


def test_an_unfinished_source_is_refused(sources: list[Path]) -> None:
    (sources[1] / "shards" / "000001.json").unlink()
    with pytest.raises(CacheCorruptError, match=f"{sources[1]} is not finished"):
        CacheMerge(sources, images_per_shard=4)


def test_going_on_with_other_sources_is_refused_and_so_is_a_source_as_output(
    sources: list[Path], source: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(words(tmp_path / "merged", sources))
    before = tree(tmp_path / "merged"), tree(sources[0])
    for wrong in (
        words(tmp_path / "merged", sources[::-1], "--name", "one + two"),
        words(tmp_path / "merged", sources[::-1], "--repair"),
        words(sources[0], sources),
    ):
        with pytest.raises(SystemExit) as exit_info:
            main(wrong)
        assert exit_info.value.code == 2
        assert "annotation_sha256: found" in capsys.readouterr().err
    assert (tree(tmp_path / "merged"), tree(sources[0])) == before


def test_a_folder_of_something_else_is_refused(
    sources: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.jpg").touch()
    with pytest.raises(SystemExit) as exit_info:
        main(words(tmp_path / "photos", sources))
    assert exit_info.value.code == 2
    assert "is no cache, and not empty either: it holds 1.jpg" in capsys.readouterr().err


def test_what_makes_a_cache_says_that_this_one_was_merged(
    sources: list[Path], tmp_path: Path, manifest: Manifest
) -> None:
    main(words(tmp_path / "merged", sources))
    with FeatureCache.open(tmp_path / "merged") as merged:
        found = merged.manifest
    with pytest.raises(CacheMismatchError, match="regionspot cache merge --output_dir"):
        check_same_manifest(found, manifest)


def test_numbers_that_cannot_be_are_refused(sources: list[Path]) -> None:
    with pytest.raises(ConfigError, match="no cache to merge"):
        CacheMerge([], images_per_shard=4)
    with pytest.raises(ConfigError, match="0 a shard"):
        CacheMerge(sources, images_per_shard=0)


def test_image_ids_that_occur_again_are_told(
    source: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str], make_sample: Any
) -> None:
    one, two = source("one", [0, 1]), source("two", [7])
    with FeatureCache.open(two) as cache:
        sample = replace(cache.sample(0), image_id=100)
    write_shard(two, 0, [sample])
    build_index(two)
    main(words(tmp_path / "merged", [one, two]))
    assert "\n1 image ids are repeated: fine for training" in capsys.readouterr().out


def test_one_cache_alone_is_cut_anew(source: Source, tmp_path: Path) -> None:
    one = source("one", range(5))
    copied = Path(shutil.copytree(one, tmp_path / "copied"))
    main(words(tmp_path / "cut", [copied]))
    assert stock_samples(tmp_path / "cut") == stock_samples(one)
    assert len(list((tmp_path / "cut").glob("shards/*.tar"))) == 2
