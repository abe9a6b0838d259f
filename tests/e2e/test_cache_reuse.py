"""``cache_features.py --reuse``: what a finished cache holds is reused, nothing wrong is."""

import hashlib
import json
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image
from torch import nn

from helpers.clip import clip_of
from helpers.files import flip_bit, tree
from helpers.format3 import as_format3
from helpers.processes import kill_at_renames
from regionspot.backbones import FrozenModels, GridProposer, ModelsConfig, load_frozen_models
from regionspot.cache import FeatureCache, verify_cache
from regionspot.cli.main import main
from regionspot.core.errors import CacheCorruptError, CacheMismatchError, ConfigError
from regionspot.extraction import (
    AnnotationsConfig,
    CacheConfig,
    CacheJob,
    CacheSummary,
    ProposalsConfig,
    repair_cache,
    run_job,
)

NUM_IMAGES = 7
NAMES = ("red star", "blue egg", "white ring")
Boxes = dict[int, list[tuple[float, float, float, float]]]
"""Boxes as x, y, width and height, by image."""

BOXES: Boxes = {n: [(1.5, 2.0, 9.0 + n, 12.25), (4.0, 8.0, 20.0, 10.0)] for n in range(NUM_IMAGES)}
BOXES[2] = []
OTHER_BOXES: Boxes = {n: [(3.0, 1.0, 11.5, 8.0 + n)] for n in range(NUM_IMAGES)}


def size_hw(number: int) -> tuple[int, int]:
    return 30 + 2 * number, 44 - number


def draw(path: Path, number: int, *, seed: int = 3) -> None:
    height, width = size_hw(number)
    rng = np.random.default_rng([seed, number])
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    coarse.resize((width, height), Image.Resampling.BICUBIC).save(path)


def annotate(folder: Path, boxes: Boxes, *, name: str, labels: Sequence[int] = (1, 2)) -> Path:
    """Write annotations in COCO's format, of the images in the order of ``boxes``."""
    content = {
        "images": [
            {
                "id": number,
                "file_name": f"{number}.png",
                "height": size_hw(number)[0],
                "width": size_hw(number)[1],
            }
            for number in boxes
        ],
        "annotations": [
            {"image_id": number, "category_id": labels[place], "bbox": list(box)}
            for number, of_image in boxes.items()
            for place, box in enumerate(of_image)
        ],
        "categories": [{"id": number, "name": name} for number, name in enumerate(NAMES, start=1)],
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def models() -> FrozenModels:
    torch.set_num_threads(1)
    return load_frozen_models(ModelsConfig(preset="toy"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    for number in range(NUM_IMAGES):
        draw(folder / f"{number}.png", number)
    annotate(folder, BOXES, name="old")
    return folder


def config_of(
    world: Path,
    output_dir: Path,
    annotations: Path,
    *,
    images_dir: Path | None = None,
    **more: Any,
) -> CacheConfig:
    return CacheConfig(
        output_dir=str(output_dir),
        annotations=AnnotationsConfig(
            format="csv" if annotations.suffix == ".csv" else "coco",
            path=str(annotations),
            images_dir=str(images_dir or world),
        ),
        **{
            "models": ModelsConfig(preset="toy"),
            "templates": ["none"],
            "images_per_shard": 3,
            "batch_size": 2,
            "device": "cpu",
            "max_quarantined_share": 0.5,
            **more,
        },
    )


@pytest.fixture(scope="module")
def old(world: Path, models: FrozenModels) -> Path:
    """The cache to reuse."""
    output_dir = world / "caches" / "old"
    run_job(CacheJob(config_of(world, output_dir, world / "old.json"), models=models))
    return output_dir


@dataclass(kw_only=True)
class Seen:
    """How many images, or texts, went through each tower at once."""

    sam: list[int] = field(default_factory=list)
    clip: list[int] = field(default_factory=list)
    texts: list[int] = field(default_factory=list)


Make = Callable[..., tuple[Path, Seen, CacheSummary]]


@pytest.fixture
def make(world: Path, models: FrozenModels, tmp_path: Path) -> Make:
    """Return a function that makes a cache, and counts what the towers have to look at."""

    def make(annotations: Path, name: str = "new", **more: Any) -> tuple[Path, Seen, CacheSummary]:
        seen = Seen()
        clip: Any = clip_of(models).model
        sam: Any = models.localizer.module

        def count(into: list[int]) -> Callable[[nn.Module, Any, Any], None]:
            return lambda _module, inputs, _output: into.append(len(inputs[0]))

        hooks = [
            sam.image_encoder.patch_embed.register_forward_hook(count(seen.sam)),
            clip.visual.conv1.register_forward_hook(count(seen.clip)),
            clip.token_embedding.register_forward_hook(count(seen.texts)),
        ]
        try:
            job = CacheJob(config_of(world, tmp_path / name, annotations, **more), models=models)
            summary = run_job(job)
        finally:
            for hook in hooks:
                hook.remove()
        assert isinstance(summary, CacheSummary)
        return tmp_path / name, seen, summary

    return make


def tars(cache: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(cache.glob("shards/*.tar"))}


def arrays(cache: Path, member: str) -> dict[int, bytes]:
    """Return a member of every image, as the stock reader finds it."""
    paths = [str(path) for path in sorted(cache.glob("shards/*.tar"))]
    samples = list(webdataset.WebDataset(paths, shardshuffle=False))
    return {int(sample["__key__"]): sample[member] for sample in samples}


# webdataset leaves closing its tars to the garbage collector
stock_reader = [
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
pytestmark = stock_reader


# --- What is reused ----------------------------------------------------------------------------


def test_with_the_same_regions_nothing_is_computed_or_read_but_one_image_a_shard(
    world: Path, old: Path, make: Make, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number in (0, 3, 6):  # the first one of each shard
        shutil.copy(world / f"{number}.png", images)
    new, seen, summary = make(world / "old.json", reuse=str(old), images_dir=images)
    assert (seen.sam, seen.texts) == ([], [])
    assert seen.clip == [1, 1, 1]
    assert tars(new) == tars(old)
    assert (new / "text_banks.h5").read_bytes() == (old / "text_banks.h5").read_bytes()
    assert (summary.num_reused_maps, summary.num_reused_tokens) == (NUM_IMAGES, 12)
    assert summary.lines()[-1] == "reused: 7 feature maps, 12 position tokens"
    assert verify_cache(new) == []


def test_the_manifest_says_what_was_reused(world: Path, old: Path, make: Make) -> None:
    new, _, _ = make(world / "old.json", reuse=str(old))
    files = [old / "manifest.json", *(old / "shards" / f"00000{shard}.json" for shard in range(3))]
    seals = [json.loads(path.read_text(encoding="utf-8"))["sha256"] for path in files]
    wanted = hashlib.sha256("\n".join(seals).encode()).hexdigest()
    manifest = json.loads((new / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["reused"] == wanted
    assert json.loads((old / "manifest.json").read_text(encoding="utf-8"))["reused"] is None


def test_new_boxes_cost_sam_only(world: Path, old: Path, make: Make) -> None:
    path = annotate(world, OTHER_BOXES, name="other_boxes")
    fresh, _, _ = make(path, "fresh")
    new, seen, summary = make(path, reuse=str(old))
    # SAM saw the images in the same batches, so every byte is that of a run from the start.
    assert tars(new) == tars(fresh)
    assert arrays(new, "feature_map.npy") == arrays(old, "feature_map.npy")
    assert arrays(new, "position_tokens.npy") != arrays(old, "position_tokens.npy")
    assert (seen.clip, seen.sam) == ([1, 1, 1], [2, 1, 2, 1, 1])
    assert (summary.num_reused_maps, summary.num_reused_tokens) == (NUM_IMAGES, 0)


def test_other_classes_another_order_and_fewer_boxes_cost_nothing(
    world: Path, old: Path, make: Make
) -> None:
    swapped = {number: BOXES[number][::-1] for number in reversed(range(NUM_IMAGES))}
    swapped[4] = swapped[4][:1]
    path = annotate(world, swapped, name="swapped", labels=(3, 1))
    new, seen, _ = make(path, reuse=str(old), images_per_shard=4)
    assert (seen.sam, seen.clip) == ([], [1, 1])
    with FeatureCache.open(old) as before, FeatureCache.open(new) as after:
        for place, number in enumerate(reversed(range(NUM_IMAGES))):
            was, found = before.sample(number), after.sample(place)
            kept = [1] if number == 4 else [1, 0][: len(BOXES[number])]
            if number == 2:
                kept = []
            np.testing.assert_array_equal(found.feature_map, was.feature_map)
            np.testing.assert_array_equal(found.position_tokens, was.position_tokens[kept])
            np.testing.assert_array_equal(found.boxes_xyxy, was.boxes_xyxy[kept])
            assert found.labels.tolist() == [2, 0][: len(kept)]


def test_new_images_among_known_ones_go_the_whole_way(
    world: Path, models: FrozenModels, make: Make
) -> None:
    some = {number: BOXES[number] for number in (0, 1, 4, 6)}
    part, _, _ = make(annotate(world, some, name="some"), "part")
    fresh, _, _ = make(world / "old.json", "fresh")
    new, seen, summary = make(world / "old.json", reuse=str(part))
    assert sum(seen.clip) == 3 + 3  # images 2, 3 and 5, and one a shard to compare
    assert sum(seen.sam) == 2  # image 2 has no region
    assert (summary.num_reused_maps, summary.num_reused_tokens) == (4, 8)
    known = arrays(part, "feature_map.npy")
    ours, theirs = arrays(new, "feature_map.npy"), arrays(fresh, "feature_map.npy")
    assert {number: ours[number] for number in known} == known
    with FeatureCache.open(new) as one, FeatureCache.open(fresh) as other:
        for number in range(NUM_IMAGES):
            ours_is, wanted = one.sample(number), other.sample(number)
            # Batches of another size round differently in the last bit.
            np.testing.assert_allclose(
                one.features(ours_is), other.features(wanted), rtol=2**-10, atol=2e-5
            )
            np.testing.assert_allclose(
                ours_is.position_tokens, wanted.position_tokens, rtol=2**-10, atol=2e-5
            )
    assert ours.keys() == theirs.keys()


def test_a_box_that_decoding_clipped_is_known_again_though_no_annotation_tells_the_size(
    world: Path, make: Make, tmp_path: Path
) -> None:
    rows = [f"{number}.png,1,2,{500 if number % 2 else 9},20,egg" for number in range(4)]
    path = tmp_path / "own.csv"
    path.write_text("\n".join(["image,x1,y1,x2,y2,label", *rows]))
    first, _, _ = make(path, "first")
    new, seen, summary = make(path, reuse=str(first))
    assert seen.sam == []
    assert tars(new) == tars(first)
    assert summary.num_clipped_regions == 2


def test_an_image_that_was_left_out_before_and_mended_goes_the_whole_way(
    world: Path, make: Make, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    shutil.copytree(world, images, ignore=shutil.ignore_patterns("caches"))
    (images / "1.png").write_bytes(b"")
    damaged, _, summary = make(world / "old.json", "damaged", images_dir=images)
    assert summary.num_quarantined == 1
    new, _, summary = make(world / "old.json", reuse=str(damaged))
    assert (summary.num_quarantined, summary.num_images) == (0, NUM_IMAGES)
    assert summary.num_reused_maps == NUM_IMAGES - 1
    assert arrays(new, "boxes_xyxy.npy").keys() == set(range(NUM_IMAGES))


def test_what_a_grid_found_is_taken_over_for_the_same_grid_only(world: Path, make: Make) -> None:
    grid, finer = (
        ProposalsConfig(
            grid=GridProposer(
                points_per_side=side,
                pred_iou_thresh=0.0,
                stability_score_thresh=0.0,
                max_regions=3,
            )
        )
        for side in (2, 3)
    )
    first, _, summary = make(world / "old.json", "first", proposals=grid)
    assert summary.num_regions > 0
    new, seen, summary = make(world / "old.json", proposals=grid, reuse=str(first))
    assert (seen.sam, seen.clip) == ([], [1, 1, 1])
    assert tars(new) == tars(first)
    _, seen, summary = make(world / "old.json", "finer", proposals=finer, reuse=str(first))
    assert sum(seen.sam) == NUM_IMAGES
    assert (summary.num_reused_maps, summary.num_reused_tokens) == (NUM_IMAGES, 0)


def test_a_cache_of_format_3_gives_its_feature_maps_only(
    world: Path, old: Path, make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = as_format3(old, tmp_path / "format 3")
    new, seen, summary = make(world / "old.json", reuse=str(before))
    assert "format 3 has no predicted IoUs (it is of format 3): only its feature" in caplog.text
    assert (sum(seen.sam), seen.clip) == (NUM_IMAGES - 1, [1, 1, 1])  # one has no region
    assert (summary.num_reused_maps, summary.num_reused_tokens) == (NUM_IMAGES, 0)
    assert tars(new) == tars(old)


def test_masks_are_reused_from_a_cache_that_has_them(
    world: Path, old: Path, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    first, seen, summary = make(world / "old.json", "first", reuse=str(old), masks=True)
    assert f"{old} has no masks: only its feature maps are reused" in caplog.text
    assert (sum(seen.sam), summary.num_reused_tokens) == (NUM_IMAGES - 1, 0)
    again, seen, summary = make(world / "old.json", "again", reuse=str(first), masks=True)
    assert (seen.sam, summary.num_reused_tokens) == ([], 12)
    assert tars(again) == tars(first)
    without, seen, _ = make(world / "old.json", "without", reuse=str(first))
    assert seen.sam == []
    assert tars(without) == tars(old)


def test_a_cache_begun_in_format_3_is_finished_and_repaired_in_it(
    world: Path, old: Path, make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begun = as_format3(old, tmp_path / "begun")
    wanted = tree(begun)
    for name in ("shards/000001.tar", "shards/000001.json", "shards/000002.json", "index.h5"):
        (begun / name).unlink()
    make(world / "old.json", "begun")
    assert "was begun in format 3 and is continued in it" in caplog.text
    assert tree(begun) == wanted
    flip_bit(begun / "shards" / "000000.tar", 2000)
    problems, _ = repair_cache(config_of(world, begun, world / "old.json"))
    assert [problem.shard for problem in problems] == [0]
    assert tree(begun) == wanted
    with pytest.raises(CacheMismatchError, match="masks: found False, wanted True"):
        make(world / "old.json", "begun", masks=True)


# --- What is refused -------------------------------------------------------------------------


def test_another_data_set_with_the_same_keys_and_sizes_is_refused(
    world: Path, old: Path, make: Make, tmp_path: Path
) -> None:
    others = tmp_path / "others"
    others.mkdir()
    for number in range(NUM_IMAGES):
        draw(others / f"{number}.png", number, seed=4)
    with pytest.raises(CacheMismatchError) as error:
        make(world / "old.json", reuse=str(old), images_dir=others)
    assert f"{old} is of other images: 0.png, its image 000000000000, looks different" in str(
        error.value
    )
    assert "leave --reuse out" in str(error.value)
    assert not list((tmp_path / "new").glob("shards/*.json"))


def test_the_same_images_in_another_file_format_are_the_same(
    world: Path, old: Path, make: Make, tmp_path: Path
) -> None:
    compressed = tmp_path / "compressed"
    compressed.mkdir()
    for number in range(NUM_IMAGES):
        Image.open(world / f"{number}.png").save(compressed / f"{number}.png", "JPEG", quality=90)
    new, _, _ = make(world / "old.json", reuse=str(old), images_dir=compressed)
    assert tars(new) == tars(old)


def test_without_a_single_readable_image_nobody_can_tell(
    world: Path, old: Path, make: Make, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CacheMismatchError, match=r"shard 0: none of the images .* can be read, so"):
        make(world / "old.json", reuse=str(old), images_dir=tmp_path / "empty")


def test_a_cache_of_other_settings_is_refused_naming_the_field(
    world: Path, old: Path, tmp_path: Path
) -> None:
    settings = ModelsConfig(preset="toy", token_site="mlp")  # noqa: S106 - no password
    config = config_of(world, tmp_path / "new", world / "old.json", models=settings, reuse=str(old))
    with pytest.raises(CacheMismatchError) as error:
        CacheJob(config)
    assert "\n  fingerprint.token_site: found 'transformer', wanted 'mlp'\n" in str(error.value)
    assert not (tmp_path / "new").exists()


def test_maps_that_are_stored_otherwise_are_refused_and_int8_is_copied_as_it_is(
    world: Path, old: Path, make: Make
) -> None:
    with pytest.raises(CacheMismatchError, match="\n  codec: found 'float16', wanted 'int8'\n"):
        make(world / "old.json", "refused", reuse=str(old), codec="int8")
    first, _, _ = make(world / "old.json", "first", codec="int8")
    new, seen, _ = make(world / "old.json", reuse=str(first), codec="int8")
    assert (seen.sam, seen.clip) == ([], [1, 1, 1])
    assert tars(new) == tars(first)


def test_a_damaged_image_is_not_taken_over(
    world: Path, old: Path, make: Make, tmp_path: Path
) -> None:
    damaged = Path(shutil.copytree(old, tmp_path / "damaged"))
    tar = damaged / "shards" / "000001.tar"
    flip_bit(tar, 2000, bit=0)  # the feature map of the shard's first image
    with pytest.raises(CacheCorruptError, match=f"{tar} is damaged: .* regionspot cache repair"):
        make(world / "old.json", reuse=str(damaged))


def test_a_cache_cannot_reuse_itself(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--reuse and --output_dir are both"):
        config_of(world, tmp_path, world / "old.json", reuse=f"{tmp_path}/../{tmp_path.name}")


def test_going_on_with_another_cache_to_reuse_or_without_is_refused(
    world: Path, old: Path, make: Make
) -> None:
    make(world / "old.json", reuse=str(old))
    with pytest.raises(CacheMismatchError, match=r"\n  reused: found '[0-9a-f]{64}', wanted None"):
        make(world / "old.json")
    other, _, _ = make(world / "old.json", "other", images_per_shard=4)
    with pytest.raises(CacheMismatchError, match=r"\n  reused: found '[0-9a-f]{64}', wanted '"):
        make(world / "old.json", reuse=str(other))


# --- Planned, and stopped on the way ---------------------------------------------------------


def words(world: Path, output_dir: Path, annotations: Path, old: Path) -> list[str]:
    return [
        *("--annotations.format", "coco", "--annotations.path", str(annotations)),
        *("--annotations.images_dir", str(world), "--output_dir", str(output_dir)),
        *("--models.preset", "toy", "--templates", "[none]", "--device", "cpu"),
        *("--images_per_shard", "3", "--batch_size", "2", "--reuse", str(old)),
    ]


def test_plan_counts_the_images_that_are_known(
    world: Path, make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    some = {number: BOXES[number] for number in (0, 1, 4, 6)}
    part, _, _ = make(annotate(world, some, name="some"), "part")
    options = words(world, tmp_path / "new", world / "old.json", part)
    main(["cache", "plan", *options, "--json", "true"])
    assert json.loads(capsys.readouterr().out)["num_reused_images"] == 4
    main(["cache", "plan", *options])
    assert "\n4 of the feature maps are reused\n" in capsys.readouterr().out


def test_killed_runs_end_in_the_same_bytes(
    world: Path, make: Make, tmp_path: Path, models: FrozenModels
) -> None:
    """Known and new images share batches here, so that an image's mates are not those of old."""
    some = {number: BOXES[number] for number in (0, 3, 4, 6)}
    part, _, _ = make(annotate(world, some, name="some_more"), "part")
    undisturbed, _, _ = make(world / "old.json", "undisturbed", reuse=str(part))
    options = words(world, tmp_path / "killed", world / "old.json", part)
    # Files come in the order manifest, text banks, tar and sidecar of each shard: the first run
    # leaves no shard, the second a whole one and a tar without a sidecar.
    assert kill_at_renames(["cache", *options], [3, 4]) == [-signal.SIGKILL] * 2
    main(["cache", *options])
    assert tree(tmp_path / "killed") == tree(undisturbed)
