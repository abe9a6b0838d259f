"""``cache_features.py`` on a handful of images: what it leaves behind, however it was stopped."""

import ast
import fcntl
import hashlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset
from numpy.typing import NDArray
from open_clip.transform import image_transform
from PIL import Image
from segment_anything import SamPredictor
from torch import Tensor

from helpers.files import tree
from regionspot.backbones import load_clip, load_sam
from regionspot.cache import FeatureCache, read_manifest, verify_cache, write_manifest
from regionspot.cli.cache import make_cache
from regionspot.cli.main import main

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "src" / "regionspot"

NAMES = ("red circle", "sea egg", "striped heart")
CATEGORY_IDS = (7, 3, 12)  # not in order, with gaps: labels count them as 3, 7, 12
SORTED_NAMES = ["sea egg", "red circle", "striped heart"]
NUM_IMAGES, IMAGES_PER_SHARD, NUM_SHARDS = 11, 4, 3
SUFFIXES: tuple[str, ...] = (".jpg", ".png", ".webp")
WITHOUT_REGIONS = (2, 9)
CROWD_IN = 4

Words = Sequence[str]


@dataclass(frozen=True, kw_only=True)
class World:
    """A folder with images and one annotation file of them."""

    folder: Path

    @property
    def annotations(self) -> Path:
        return self.folder / "val.json"

    @property
    def images(self) -> Path:
        return self.folder / "images"

    def image_path(self, number: int) -> Path:
        return self.folder / "images" / file_name(number)

    def copy_to(self, folder: Path) -> "World":
        shutil.copytree(self.folder, folder)
        return World(folder=folder)

    def words(self, output_dir: Path, changes: Mapping[str, str] | None = None) -> Words:
        """Return the command's options, with some of them changed or added."""
        values = {
            "annotations.format": "lvis",
            "annotations.path": str(self.annotations),
            "annotations.images_dir": str(self.images),
            "output_dir": str(output_dir),
            "models.preset": "toy",
            "templates": "[none]",
            "images_per_shard": str(IMAGES_PER_SHARD),
            "batch_size": "3",
            "device": "cpu",
            **(changes or {}),
        }
        return [word for name, value in values.items() for word in (f"--{name}", value)]


def image_id(number: int) -> int:
    return 900 - 10 * number


def key(number: int) -> str:
    return f"{image_id(number):012d}"


def file_name(number: int) -> str:
    return f"part{number % 2}/{number}{SUFFIXES[number % 3]}"


def size_hw(number: int) -> tuple[int, int]:
    return 30 + 3 * number, 64 - 2 * number


def boxes_xywh(number: int) -> list[list[float]]:
    if number in WITHOUT_REGIONS:
        return []
    return [[1.5 * place, 2.0, 10.0 + number, 12.25] for place in range(1 + number % 3)]


def annotations_of(number: int) -> list[dict[str, object]]:
    return [
        {
            "image_id": image_id(number),
            "category_id": CATEGORY_IDS[(number + place) % 3],
            "bbox": box,
            "iscrowd": int(number == CROWD_IN and place == 0),
        }
        for place, box in enumerate(boxes_xywh(number))
    ]


def write_world(folder: Path) -> World:
    world = World(folder=folder)
    rng = np.random.default_rng(8)
    for number in range(NUM_IMAGES):
        height, width = size_hw(number)
        coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        path = world.image_path(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(path)
    content = {
        "images": [
            {
                "id": image_id(number),
                "file_name": file_name(number),
                "height": size_hw(number)[0],
                "width": size_hw(number)[1],
                "neg_category_ids": [],
                "not_exhaustive_category_ids": [],
            }
            for number in range(NUM_IMAGES)
        ],
        "annotations": [
            annotation | {"id": place, "area": 1.0}
            for place, annotation in enumerate(
                one for number in range(NUM_IMAGES) for one in annotations_of(number)
            )
        ],
        "categories": [
            {"id": number, "name": name, "frequency": "f"}
            for number, name in zip(CATEGORY_IDS, NAMES, strict=True)
        ],
    }
    world.annotations.write_text(json.dumps(content), encoding="utf-8")
    return world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return write_world(tmp_path_factory.mktemp("world") / "world")


@pytest.fixture(scope="module")
def finished(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache that an undisturbed run leaves; not to be changed."""
    torch.set_num_threads(1)
    output_dir = tmp_path_factory.mktemp("finished") / "cache"
    make_cache(world.words(output_dir))
    return output_dir


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A finished cache to do as one likes with."""
    return Path(shutil.copytree(finished, tmp_path / "copied"))


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a person sees of a run."""

    code: object
    out: str
    err: str


Run = Callable[[Words], Outcome]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs the command and catches what it says."""

    def run(words: Words) -> Outcome:
        code: object = 0
        try:
            main(["cache", *words])
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return Outcome(code=code, out=captured.out, err=captured.err)

    return run


# --- What a finished cache holds -------------------------------------------------------------


def test_a_finished_cache_holds_what_was_annotated(finished: Path) -> None:
    with FeatureCache.open(finished) as cache:
        assert len(cache) == NUM_IMAGES
        manifest = cache.manifest
        assert (manifest.name, list(manifest.vocabulary)) == ("val", SORTED_NAMES)
        assert manifest.category_ids == (3, 7, 12)
        assert cache.index.num_shards == NUM_SHARDS
        for number in range(NUM_IMAGES):
            sample = cache.sample(number)
            assert (sample.key, sample.image_id) == (key(number), image_id(number))
            assert sample.size_hw == size_hw(number)
            wanted = [[x, y, x + width, y + height] for x, y, width, height in boxes_xywh(number)]
            np.testing.assert_array_equal(sample.boxes_xyxy, np.reshape(wanted, (-1, 4)))
            names = [SORTED_NAMES[label] for label in sample.labels]
            assert names == [NAMES[(number + place) % 3] for place in range(len(wanted))]
    assert verify_cache(finished) == []
    assert (finished / "quarantine.jsonl").read_bytes() == b""


# webdataset leaves closing its tars to the garbage collector
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_stock_webdataset_reads_every_shard(finished: Path) -> None:
    clip = load_clip("tiny", "shipped")
    token_width = load_sam("tiny", "shipped").prompt_encoder.embed_dim
    numbers = iter(range(NUM_IMAGES))
    for shard, num_images in enumerate([4, 4, 3]):
        path = finished / "shards" / f"{shard:06d}.tar"
        read = list(webdataset.WebDataset(str(path), shardshuffle=False).decode())
        assert len(read) == num_images
        for sample in read:
            number = next(numbers)
            boxes = np.array(boxes_xywh(number), np.float32).reshape(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
            assert sample["__key__"] == key(number)
            assert sample["json"] == {
                "file_name": file_name(number),
                "image_id": image_id(number),
                "key": key(number),
                "num_clipped_regions": 0,
                "num_dropped_regions": 0,
                "num_regions": len(boxes),
                "size_hw": list(size_hw(number)),
            }
            np.testing.assert_array_equal(sample["boxes_xyxy.npy"], boxes)
            found = {
                name: (sample[name].dtype, sample[name].shape)
                for name in ("feature_map.npy", "position_tokens.npy", "labels.npy")
            }
            assert found == {
                "feature_map.npy": (np.float16, (clip.num_tokens, clip.width)),
                "position_tokens.npy": (np.float16, (len(boxes), token_width)),
                "labels.npy": (np.int64, (len(boxes),)),
            }
    assert next(numbers, None) is None


@torch.no_grad()
def test_every_image_has_the_numbers_of_its_own_file(finished: Path, world: World) -> None:
    """SamPredictor and open_clip, image by image, see what the batches of the run saw."""
    sam, loaded = load_sam("tiny", "shipped"), load_clip("tiny", "shipped")
    clip: Any = loaded.model
    options = {"mean": loaded.mean, "std": loaded.std}
    transform = image_transform(
        loaded.image_size,
        is_train=False,
        resize_mode="squash",
        interpolation="bilinear",
        **options,
    )
    heard: dict[str, Tensor] = {}
    sam.mask_decoder.transformer.register_forward_hook(
        lambda _module, _inputs, output: heard.update(tokens=output[0][:, 1])
    )
    clip.visual.transformer.resblocks[-1].register_forward_hook(
        lambda _module, _inputs, output: heard.update(map=output[0])
    )
    with FeatureCache.open(finished) as cache:
        for number in range(NUM_IMAGES):
            sample = cache.sample(number)
            image = Image.open(world.image_path(number)).convert("RGB")
            clip.encode_image(transform(image)[None])
            assert_same_halves(sample.feature_map, heard["map"])
            if number in WITHOUT_REGIONS:
                continue
            predictor = SamPredictor(sam)
            predictor.set_image(np.asarray(image))
            boxes = torch.from_numpy(np.array(sample.boxes_xyxy))
            boxes_sam = predictor.transform.apply_boxes_torch(boxes, size_hw(number))
            predictor.predict_torch(None, None, boxes=boxes_sam, multimask_output=False)
            assert_same_halves(sample.position_tokens, heard["tokens"])


def assert_same_halves(ours: NDArray[Any], theirs: Tensor) -> None:
    """Equal in float16, give or take its last bit: batches of another size round differently."""
    np.testing.assert_allclose(ours, theirs.half().numpy(), rtol=2**-10, atol=2e-5)


@pytest.mark.parametrize(
    ("codec", "error", "map_bytes"), [("bfloat16", 4e-3, 256), ("int8", 2e-2, 164)]
)
def test_other_codecs_store_the_same_maps_less_exactly(
    codec: str, error: float, map_bytes: int, world: World, finished: Path, tmp_path: Path
) -> None:
    make_cache(world.words(tmp_path / codec, {"codec": codec}))
    assert verify_cache(tmp_path / codec) == []
    stated = json.loads((tmp_path / codec / "manifest.json").read_text())["measured_error"]
    assert error / 8 < stated["feature_map"] < error
    assert stated["num_images"] == 4
    with FeatureCache.open(finished) as exact, FeatureCache.open(tmp_path / codec) as other:
        assert len(exact) == len(other) == NUM_IMAGES
        for number in range(NUM_IMAGES):
            ours, theirs = other.sample(number), exact.sample(number)
            assert ours.feature_map.nbytes == map_bytes * len(theirs.feature_map)
            wanted = exact.features(theirs).float()
            assert float((other.features(ours) - wanted).norm() / wanted.norm()) < error
            np.testing.assert_array_equal(ours.position_tokens, theirs.position_tokens)


@torch.no_grad()
def test_the_text_bank_is_open_clips_embedding_of_the_names(finished: Path) -> None:
    clip = load_clip("tiny", "shipped")
    theirs = clip.model.encode_text(clip.tokenizer(SORTED_NAMES), normalize=True)
    with FeatureCache.open(finished) as cache:
        np.testing.assert_allclose(cache.text_bank("none"), theirs, rtol=0, atol=1e-6)


def test_coco_ground_truth_goes_in_as_well(world: World, finished: Path, tmp_path: Path) -> None:
    content = json.loads(world.annotations.read_text(encoding="utf-8"))
    for image in content["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    for category in content["categories"]:
        del category["frequency"]
    path = tmp_path / "val.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    changes = {"annotations.format": "coco", "annotations.path": str(path)}
    make_cache(world.words(tmp_path / "cache", changes))
    ours, theirs = tree(tmp_path / "cache" / "shards"), tree(finished / "shards")
    for shard in range(NUM_SHARDS):
        assert ours[f"{shard:06d}.tar"] == theirs[f"{shard:06d}.tar"]


def test_a_limit_takes_the_first_images(world: World, tmp_path: Path, run: Run) -> None:
    outcome = run(world.words(tmp_path / "cache", {"limit": "5"}))
    assert f"{tmp_path / 'cache'}: 5 images, 6 regions, 2 shards, " in outcome.out
    with FeatureCache.open(tmp_path / "cache") as cache:
        assert [cache.index.key(index) for index in range(5)] == [key(n) for n in range(5)]
        assert len(cache) == 5


def test_the_last_lines_count_what_was_made(world: World, tmp_path: Path, run: Run) -> None:
    outcome = run(world.words(tmp_path / "cache"))
    num_bytes = sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*.*"))
    lines = outcome.out.splitlines()
    assert lines[0] == "11 images, 17 regions of 17 annotations"
    assert lines[-2] == (
        f"{tmp_path / 'cache'}: 11 images, 17 regions, 3 shards, {num_bytes / 1000:.1f} kB"
    )
    assert re.fullmatch(r"11 images in \d+\.\d s, [\d,]+\.\d images/s", lines[-1])
    assert (outcome.code, outcome.err) == (0, "")


# --- The same bytes again --------------------------------------------------------------------


def test_running_again_does_nothing_and_keeps_all_bytes(
    world: World, finished: Path, copied: Path, run: Run
) -> None:
    before = times(copied / "shards")
    outcome = run(world.words(copied))
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.splitlines()[-1] == "already complete, nothing to do"
    assert tree(copied) == tree(finished)
    assert times(copied / "shards") == before


def test_bytes_do_not_depend_on_where_images_lie_or_when_they_were_written(
    world: World, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = world.copy_to(tmp_path / "moved")
    for path in moved.folder.rglob("*"):
        os.utime(path, (1, 1))
    monkeypatch.chdir(tmp_path)
    make_cache(World(folder=Path("moved")).words(Path("cache")))
    assert tree(tmp_path / "cache") == tree(finished)


def test_bytes_do_not_depend_on_the_number_of_workers(
    world: World, finished: Path, tmp_path: Path
) -> None:
    torch.set_num_threads(3)  # a worker each: there are three batches
    try:
        make_cache(world.words(tmp_path / "cache"))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)
    assert tree(tmp_path / "cache") == tree(finished)


def test_the_script_itself_leaves_the_same_bytes_and_logs_its_way(
    world: World, finished: Path, tmp_path: Path
) -> None:
    words = [sys.executable, "cache_features.py", *world.words(tmp_path / "cache")]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert tree(tmp_path / "cache") == tree(finished)
    logged = done.stderr.splitlines()
    assert re.fullmatch(
        r"SAM tiny \(weights [0-9a-f]{12}\) and CLIP tiny \(weights [0-9a-f]{12}\)"
        r" on cpu in float32",
        logged[0],
    )
    assert logged[1:] == [
        "embedded 3 class names with the templates none",
        "shard 1 of 3: 4 images, 0 left out",
        "shard 2 of 3: 4 images, 0 left out",
        "shard 3 of 3: 3 images, 0 left out",
    ]
    assert done.stdout.startswith("11 images, 17 regions of 17 annotations\n")


# --- Stopped on the way (killed: tests/faults/test_stopped_runs.py) ----------------------------


def test_a_damaged_image_stops_a_run_that_ends_in_the_same_bytes_once_it_is_mended(
    world: World, finished: Path, tmp_path: Path, run: Run
) -> None:
    damaged, output_dir = world.copy_to(tmp_path / "damaged"), tmp_path / "cache"
    number = IMAGES_PER_SHARD + 1  # in the second shard
    data = damaged.image_path(number).read_bytes()
    damaged.image_path(number).write_bytes(data[:100])
    outcome = run(damaged.words(output_dir, {"max_quarantined_share": "0"}))
    assert outcome.code == 2
    assert file_name(number) in outcome.err
    # The damaged image is in the second shard's first batch, so of that shard nothing was begun.
    assert sorted(times(output_dir / "shards")) == ["000000.json", "000000.tar"]
    first_shard = times(output_dir / "shards")["000000.tar"]
    damaged.image_path(number).write_bytes(data)
    assert run(damaged.words(output_dir, {"max_quarantined_share": "0"})).code == 0
    assert tree(output_dir) == tree(finished)
    assert times(output_dir / "shards")["000000.tar"] == first_shard


@pytest.mark.parametrize(
    "name",
    ["manifest.json", "text_banks.h5", "shards/000001.tar", "shards/000001.json", "index.h5"],
)
def test_what_a_crash_left_under_a_temporary_name_is_no_obstacle(
    world: World, finished: Path, tmp_path: Path, run: Run, name: str
) -> None:
    output_dir = tmp_path / "cache"
    for file in tree(finished):  # what was there when the file was begun
        if (finished / file).stat().st_mtime_ns < (finished / name).stat().st_mtime_ns:
            (output_dir / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(finished / file, output_dir / file)
    (output_dir / name).parent.mkdir(parents=True, exist_ok=True)
    (output_dir / f"{name}.tmp").write_bytes(b"half of it")
    outcome = run(world.words(output_dir))
    assert (outcome.code, outcome.err) == (0, "")
    assert tree(output_dir) == tree(finished)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("shards/000001.tar", "missing"),
        ("shards/000001.tar", "cut"),
        ("shards/000001.json", "missing"),
        ("shards/000001.json", "cut"),
        ("shards/000001.json", "flipped"),
        ("index.h5", "missing"),
        ("index.h5", "flipped"),
        ("quarantine.jsonl", "missing"),
        ("text_banks.h5", "missing"),
    ],
)
def test_a_lost_or_damaged_file_is_made_again_and_no_other_shard(
    world: World, finished: Path, copied: Path, run: Run, name: str, damage: str
) -> None:
    data = (copied / name).read_bytes()
    (copied / name).unlink()
    if damage == "cut":
        (copied / name).write_bytes(data[:-700])
    elif damage == "flipped":
        (copied / name).write_bytes(bytes([data[0] ^ 1]) + data[1:])
    before = times(copied / "shards")
    assert run(world.words(copied)).code == 0
    assert tree(copied) == tree(finished)
    after = times(copied / "shards")
    assert (before["000000.tar"], before["000002.tar"]) == (
        after["000000.tar"],
        after["000002.tar"],
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full, which is always full")
def test_a_full_disk_is_told_and_the_run_goes_on_once_there_is_room(
    world: World, finished: Path, copied: Path, run: Run
) -> None:
    for suffix in ("tar", "json"):
        (copied / "shards" / f"000001.{suffix}").unlink()
    full = copied / "shards" / "000001.tar.tmp"
    full.symlink_to("/dev/full")
    outcome = run(world.words(copied))
    assert outcome.code == 2
    assert outcome.err == (
        f"error: cannot write to {copied}: No space left on device. Finished shards are safe: make"
        " room, or allow writing there, and run the same command again; or set another"
        " --output_dir.\n"
    )
    assert not full.is_symlink()  # what was written of it would keep its room
    assert run(world.words(copied)).code == 0
    assert tree(copied) == tree(finished)


def test_two_runs_cannot_write_to_one_folder(world: World, copied: Path, run: Run) -> None:
    descriptor = os.open(copied, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    outcome = run(world.words(copied))
    os.close(descriptor)
    assert outcome.code == 2
    assert outcome.err.startswith(f"error: another process is writing to {copied}; ")
    assert run(world.words(copied)).code == 0


# --- Another batch of options ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"models.sam_weights": "random"}, ["fingerprint.sam_weights_sha256"]),
        ({"models.clip_weights": "random"}, ["fingerprint.clip_weights_sha256"]),
        ({"models.token_site": "mlp"}, ["fingerprint.token_site", "fingerprint.token_dim"]),
        ({"exif_policy": "apply"}, ["fingerprint.exif_policy"]),
        ({"images_per_shard": "5"}, ["plan.images_per_shard"]),
        ({"limit": "9"}, ["plan.num_images", "plan.order_sha256"]),
        ({"annotations.name": "other"}, ["name"]),
        ({"annotations.crowds": "drop"}, ["annotation_sha256"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_cache_made_otherwise_is_refused_naming_what_differs_and_not_touched(
    world: World, finished: Path, copied: Path, run: Run, changes: dict[str, str], fields: list[str]
) -> None:
    before = times(copied)
    outcome = run(world.words(copied, changes))
    assert outcome.code == 2
    first, *listed, advice = outcome.err.splitlines()
    assert first == (
        "error: this folder holds the cache 'val', which was made with other models or settings"
        " than wanted:"
    )
    assert [line.partition(":")[0].strip() for line in listed] == fields
    assert all(re.search(": found .*, wanted ", line) for line in listed)
    assert "--output_dir <another folder>" in advice
    assert tree(copied) == tree(finished)
    assert times(copied) == before


@pytest.mark.parametrize("name", ["sam_resize", "clip_resize", "clip_mean", "clip_activation"])
def test_a_cache_of_a_version_that_prepared_images_otherwise_is_refused_naming_it(
    world: World, copied: Path, run: Run, name: str
) -> None:
    manifest = read_manifest(copied)
    other = (0.1, 0.2, 0.3) if name == "clip_mean" else "another way"
    changes: dict[str, Any] = {name: other}
    fingerprint = replace(manifest.fingerprint, **changes)
    write_manifest(copied, replace(manifest, fingerprint=fingerprint))
    outcome = run(world.words(copied))
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()[1:-1]
    now = getattr(manifest.fingerprint, name)
    assert line == f"  fingerprint.{name}: found {other!r}, wanted {now!r}"


def test_an_unfinished_cache_made_otherwise_is_refused_as_well(
    world: World, copied: Path, run: Run
) -> None:
    (copied / "index.h5").unlink()
    (copied / "shards" / "000002.json").unlink()
    left = tree(copied)
    outcome = run(world.words(copied, {"annotations.crowds": "drop"}))
    assert outcome.code == 2
    assert tree(copied) == left


def test_changed_annotations_are_refused(
    world: World, copied: Path, tmp_path: Path, run: Run
) -> None:
    changed = tmp_path / "val.json"
    text = world.annotations.read_text(encoding="utf-8")
    changed.write_text(text.replace("12.25", "12.5"), encoding="utf-8")
    outcome = run(world.words(copied, {"annotations.path": str(changed)}))
    assert outcome.code == 2
    sha256s = [
        hashlib.sha256(path.read_bytes()).hexdigest() for path in (world.annotations, changed)
    ]
    assert f"  annotation_sha256: found {sha256s[0]!r}, wanted {sha256s[1]!r}\n" in outcome.err


def test_other_class_names_are_refused_naming_the_first(
    world: World, copied: Path, tmp_path: Path, run: Run
) -> None:
    changed = tmp_path / "val.json"
    text = world.annotations.read_text(encoding="utf-8")
    changed.write_text(text.replace("sea egg", "egg"), encoding="utf-8")
    outcome = run(world.words(copied, {"annotations.path": str(changed)}))
    assert outcome.code == 2
    assert "  vocabulary: label 0: found 'sea egg', wanted 'egg'\n" in outcome.err


@pytest.mark.parametrize(
    "changes",
    [{"max_quarantined_share": "1"}, {"batch_size": "11"}, {"device": "auto"}],
    ids="-".join,
)
def test_options_that_change_no_stored_number_may_change(
    world: World, finished: Path, copied: Path, run: Run, changes: dict[str, str]
) -> None:
    assert run(world.words(copied, changes)).code == 0
    assert tree(copied) == tree(finished)


def test_templates_can_be_added_later(
    world: World, finished: Path, copied: Path, tmp_path: Path, run: Run
) -> None:
    outcome = run(world.words(copied, {"templates": "[single,none]"}))
    assert (outcome.code, outcome.err) == (0, "")
    both_at_once = tmp_path / "both"
    make_cache(world.words(both_at_once, {"templates": "[none,single]"}))
    assert tree(copied) == tree(both_at_once)
    changed = {name for name, content in tree(finished).items() if tree(copied)[name] != content}
    assert changed == {"text_banks.h5"}
    with FeatureCache.open(copied) as cache:
        assert cache.text_bank("single").shape == cache.text_bank("none").shape


def test_synonyms_can_be_averaged_where_the_annotations_list_them(
    world: World, tmp_path: Path, run: Run
) -> None:
    outcome = run(world.words(tmp_path / "without", {"templates": "[none-synonyms]"}))
    assert outcome.code == 2
    assert "val.json lists no synonyms of its categories (LVIS files do)" in outcome.err
    assert not (tmp_path / "without").exists()
    own = world.copy_to(tmp_path / "own")
    content = json.loads(own.annotations.read_text(encoding="utf-8"))
    names = {category["name"]: [category["name"], "star"] for category in content["categories"]}
    for category in content["categories"]:
        category["synonyms"] = names[category["name"]]
    own.annotations.write_text(json.dumps(content), encoding="utf-8")
    outcome = run(own.words(tmp_path / "cache", {"templates": "[none-synonyms]"}))
    assert (outcome.code, outcome.err) == (0, "")
    clip = load_clip("tiny", "shipped")
    with torch.no_grad():
        rows = [
            clip.model.encode_text(clip.tokenizer(names[name])).mean(dim=0) for name in SORTED_NAMES
        ]
    wanted = torch.nn.functional.normalize(torch.stack(rows), dim=-1).numpy()
    with FeatureCache.open(tmp_path / "cache") as cache:
        np.testing.assert_allclose(cache.text_bank("none-synonyms"), wanted, atol=1e-6)


# --- Images that cannot be used --------------------------------------------------------------


def test_one_bad_image_of_many_is_left_out_with_its_reason(
    world: World, finished: Path, tmp_path: Path, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    damaged, output_dir = world.copy_to(tmp_path / "damaged"), tmp_path / "cache"
    damaged.image_path(5).write_bytes(b"<html>404</html>")
    outcome = run(damaged.words(output_dir, {"max_quarantined_share": "0.1"}))
    assert outcome.code == 0
    reason = "is no image that Pillow can open: it starts with b'<html>404</html>'"
    quarantine = (output_dir / "quarantine.jsonl").read_text(encoding="utf-8")
    assert quarantine == (
        f'{{"file_name":"{file_name(5)}","image_id":{image_id(5)},"key":"{key(5)}",'
        f'"reason":"{reason}","shard":1}}\n'
    )
    assert f"left out: {file_name(5)} {reason}" in caplog.messages
    assert f"left out: 1 images; {output_dir}/quarantine.jsonl says why" in outcome.out
    with FeatureCache.open(output_dir) as cache:
        keys = [cache.index.key(index) for index in range(len(cache))]
        assert keys == [key(number) for number in range(NUM_IMAGES) if number != 5]
        assert cache.index.num_quarantined == 1
    assert verify_cache(output_dir) == []
    ours, theirs = tree(output_dir), tree(finished)
    assert {name for name in ours if ours[name] != theirs[name]} == {
        *("shards/000001.tar", "shards/000001.json", "index.h5", "quarantine.jsonl"),
    }
    again = tmp_path / "again"
    assert run(damaged.words(again, {"max_quarantined_share": "0.1"})).code == 0
    assert tree(again) == ours


def spoil(world: World, numbers: Sequence[int]) -> None:
    """Remove, empty, cut and shrink images, one after the other."""
    for place, number in enumerate(numbers):
        path = world.image_path(number)
        data = path.read_bytes()
        path.unlink()
        if place % 4 == 1:
            path.write_bytes(b"")
        elif place % 4 == 2:
            path.write_bytes(data[: len(data) // 2])
        elif place % 4 == 3:
            Image.new("RGB", (8, 6)).save(path)


def test_too_many_bad_images_stop_the_run_with_the_first_reasons_and_what_to_type(
    world: World, tmp_path: Path, run: Run
) -> None:
    damaged, output_dir = world.copy_to(tmp_path / "damaged"), tmp_path / "cache"
    spoil(damaged, [1, 5, 6, 7])
    outcome = run(damaged.words(output_dir, {"max_quarantined_share": "0.2"}))
    assert outcome.code == 2
    first, *reasons, advice = outcome.err.splitlines()
    assert first == (
        "error: 3 of 11 images cannot be used, more than the allowed share of 0.2. The first of"
        f" them, in {damaged.images}:"
    )
    assert reasons[0] == f"  {file_name(1)} does not exist"
    assert reasons[1] == f"  {file_name(5)} is empty"
    assert reasons[2].startswith(f"  {file_name(6)} cannot be decoded: ")
    assert len(reasons) == 3
    assert "check --annotations.images_dir" in advice
    assert "raise --max_quarantined_share (1 allows all); then run the same command again" in advice

    # What it says to type works, and nothing that was done is done again.
    first_shard = times(output_dir / "shards")["000000.tar"]
    again = run(damaged.words(output_dir, {"max_quarantined_share": "1"}))
    assert again.code == 0
    assert times(output_dir / "shards")["000000.tar"] == first_shard
    lines = (output_dir / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["image_id"] for line in lines] == list(map(image_id, [1, 5, 6, 7]))
    assert json.loads(lines[3])["reason"] == (
        "is 8 x 6 pixels (width x height), annotated as 50 x 51"
    )


def test_images_left_out_by_an_earlier_run_count_as_well(
    world: World, tmp_path: Path, run: Run
) -> None:
    damaged, output_dir = world.copy_to(tmp_path / "damaged"), tmp_path / "cache"
    spoil(damaged, [0, 4])
    options = {"max_quarantined_share": "0.1"}
    for _ in range(2):
        outcome = run(damaged.words(output_dir, options))
        assert outcome.code == 2
        assert outcome.err.startswith("error: 2 of 11 images cannot be used")
        assert f"\n  {file_name(0)} does not exist\n  {file_name(4)} is empty\n" in outcome.err


def test_exactly_the_allowed_share_may_be_left_out(world: World, tmp_path: Path, run: Run) -> None:
    """0.58 of 50 is 29, though 0.58 * 50 is a little less in floating point."""
    folder = tmp_path / "many"
    folder.mkdir()
    many = World(folder=folder)
    many.images.mkdir()
    for number in range(29, 50):
        Image.new("RGB", (8, 6)).save(many.images / f"{number}.png")
    content = {
        "images": [
            {"id": number, "file_name": f"{number}.png", "height": 6, "width": 8}
            for number in range(50)
        ],
        "annotations": [],
        "categories": [{"id": 1, "name": "star", "frequency": "r"}],
    }
    many.annotations.write_text(json.dumps(content), encoding="utf-8")
    options = {"images_per_shard": "50", "batch_size": "50"}
    refused = run(many.words(tmp_path / "cache", options | {"max_quarantined_share": "0.57"}))
    assert refused.code == 2
    assert refused.err.startswith("error: 29 of 50 images cannot be used, more than the allowed")
    taken = run(many.words(tmp_path / "cache", options | {"max_quarantined_share": "0.58"}))
    assert (taken.code, taken.err) == (0, "")


def test_a_wrong_images_folder_is_noticed_before_much_is_done(
    world: World, tmp_path: Path, run: Run
) -> None:
    wrong = {"annotations.images_dir": str(world.images / "part0")}
    outcome = run(world.words(tmp_path / "cache", wrong))
    assert outcome.code == 2
    assert "11 images cannot be used, more than the allowed share of 0.01" in outcome.err
    assert f"\n  {file_name(0)} does not exist\n" in outcome.err
    assert "--annotations.images_dir" in outcome.err
    assert list((tmp_path / "cache").rglob("*.tar")) == []


def test_images_of_another_size_than_annotated_are_told(
    world: World, tmp_path: Path, run: Run
) -> None:
    resized = world.copy_to(tmp_path / "resized")
    for number in range(NUM_IMAGES):
        Image.new("RGB", (32, 16)).save(resized.image_path(number))
    outcome = run(resized.words(tmp_path / "cache"))
    assert outcome.code == 2
    assert f"\n  {file_name(0)} is 32 x 16 pixels (width x height), annotated as 64 x 30\n" in (
        outcome.err
    )


def test_a_share_of_one_lets_even_a_cache_of_no_image_be_finished(
    world: World, tmp_path: Path, run: Run
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    changes = {"annotations.images_dir": str(empty), "max_quarantined_share": "1"}
    outcome = run(world.words(tmp_path / "cache", changes))
    assert (outcome.code, outcome.err) == (0, "")
    assert "0 images, 0 regions, 3 shards" in outcome.out
    with FeatureCache.open(tmp_path / "cache") as cache:
        assert (len(cache), cache.index.num_quarantined) == (0, NUM_IMAGES)


# --- Mistakes of a person --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"annotations.images_dir": "{tmp}/nowhere"},
            (
                "{tmp}/nowhere is not a folder; wanted the one that holds the images of"
                " {world}/val.json. Set --annotations.images_dir."
            ),
        ),
        (
            {"annotations.path": "{world}/train.json"},
            (
                "{world}/train.json does not exist. That folder holds val.json. Set"
                " --annotations.path to the annotation file."
            ),
        ),
        ({"annotations.format": "coco"}, "{world}/val.json is .* Type --annotations.format lvis."),
        (
            {"models.preset": "blx"},
            "there is no preset 'blx'; give one of bb, bl, bl336, toy .*models.preset.*",
        ),
        ({"models.sam": "vit_x"}, "there is no SAM 'vit_x'; give one of vit_b, .*models.sam.*"),
        (
            {"models.clip": "ViT-L", "models.clip_weights": "random"},
            r"open_clip has no model 'ViT-L'\. Did you mean ViT-L-16 or .*models\.clip\)\.",
        ),
        (
            {"models.sam_weights": "{tmp}/sam.pth"},
            "no weights file at {tmp}/sam.pth: check the path, or .*",
        ),
        (
            {"templates": "[solo]"},
            r"--templates is \['solo'\]; wanted .*, for instance --templates '\[ensemble81\]'.",
        ),
        ({"limit": "0"}, "--limit is 0; wanted 1 or more."),
        (
            {"device": "gpu"},
            "device 'gpu' is not a device name .*: give auto, cpu, cuda or cuda:N.",
        ),
        (
            {"output_dir": "{world}"},
            (
                "{world} is no cache, and not empty either: it holds images, val.json. Set"
                " --output_dir to a new folder."
            ),
        ),
        ({"output_dir": "{world}/val.json"}, "{world}/val.json is not a folder, .*--output_dir .*"),
        (
            {"output_dir": "{world}/val.json/cache"},
            "{world}/val.json is not a folder, .*--output_dir .*",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_mistake_exits_with_2_and_one_line_that_says_what_to_type(
    world: World, tmp_path: Path, run: Run, changes: dict[str, str], message: str
) -> None:
    places = {"{tmp}": str(tmp_path), "{world}": str(world.folder)}
    for place, path in places.items():
        message = message.replace(place, path)
        changes = {name: value.replace(place, path) for name, value in changes.items()}
    before = tree(world.folder)
    outcome = run(world.words(tmp_path / "cache", changes))
    assert (outcome.code, outcome.out) == (2, "")
    assert re.fullmatch(f"error: {message}\n", outcome.err), outcome.err
    assert tree(world.folder) == before
    assert not (tmp_path / "cache").exists() or tree(tmp_path / "cache") == {}


def test_an_empty_folder_is_as_good_as_none(world: World, finished: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    make_cache(world.words(tmp_path / "cache"))
    assert tree(tmp_path / "cache") == tree(finished)


def documented_fields(path: Path, class_name: str) -> list[tuple[str, str]]:
    """Read the fields of a dataclass and the texts below them from its source."""
    body = next(
        node.body
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name == class_name
    )
    return [
        (field.target.id, text.value.value)
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    ]


@pytest.mark.parametrize(
    ("source", "class_name", "prefix", "num_fields"),
    [
        ("extraction/config.py", "CacheConfig", "--", 8),
        ("extraction/config.py", "AnnotationsConfig", "--annotations.", 5),
        ("backbones/presets.py", "ModelsConfig", "--models.", 8),
    ],
)
def test_help_explains_every_option_in_the_words_of_the_source(
    run: Run, source: str, class_name: str, prefix: str, num_fields: int
) -> None:
    outcome = run(["--help"])
    assert (outcome.code, outcome.err) == (0, "")
    shown = "".join(outcome.out.split())  # lines break at hyphens, too
    documented = documented_fields(SOURCES / source, class_name)
    groups = {"annotations", "models"}
    options = [(name, text) for name, text in documented if name not in groups]
    assert len(options) >= num_fields
    for name, text in options:
        assert f"{prefix}{name}" in shown
        assert "".join(text.split()).rstrip(".") in shown


def test_verify_calls_the_finished_cache_whole(finished: Path, run: Run) -> None:
    assert run(["verify", str(finished)]).out == f"{finished}: whole\n"
