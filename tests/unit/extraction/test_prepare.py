"""Preparing images in threads: what comes out is the plan's, whatever the threads do."""

import itertools
import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps
from segment_anything.utils.transforms import ResizeLongestSide

from regionspot.annotations import ImageRecord, read_annotations
from regionspot.backbones import ExifPolicy, FrozenModels, ModelsConfig, load_frozen_models
from regionspot.cache import QuarantinedImage
from regionspot.extraction import Preparation, PreparedBatch, PreparedImage, RegionLocator, ShardJob
from regionspot.extraction.prepare import prepared_batches

BAD = (3, 8)
NUM_IMAGES = 12
SIZES_HW = [(20 + number, 45 - number) for number in range(NUM_IMAGES)]


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Twelve images on disk, two of which are none, and their records."""

    folder: Path
    records: Sequence[ImageRecord]


@pytest.fixture(scope="module")
def models() -> FrozenModels:
    return load_frozen_models(ModelsConfig(preset="toy"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number, size_hw in enumerate(SIZES_HW):
        pixels = rng.integers(0, 256, (*size_hw, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    for number in BAD:
        (folder / f"{number}.png").write_bytes(b"")
    return Pictures(folder=folder, records=records_of(folder, SIZES_HW))


def records_of(
    folder: Path, sizes_hw: Sequence[tuple[int, int]], *, suffix: str = ".png"
) -> Sequence[ImageRecord]:
    """Annotate ``0.png``, ``1.png``, ...: one region each, but none in every fourth image."""
    content = {
        "images": [
            {"id": number, "file_name": f"{number}{suffix}", "height": height, "width": width}
            for number, (height, width) in enumerate(sizes_hw)
        ],
        "annotations": [
            {"id": number, "image_id": number, "category_id": 1, "bbox": [0, 0, 9, 9]}
            for number in range(len(sizes_hw))
            if number % 4 != 1
        ],
        "categories": [{"id": 1, "name": "lemon"}],
    }
    path = folder / "annotations.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return read_annotations("coco", path, folder).records


def preparation(
    folder: Path, models: FrozenModels, *, exif_policy: ExifPolicy = "ignore"
) -> Preparation:
    return Preparation(
        images_dir=folder,
        exif_policy=exif_policy,
        locator=RegionLocator(localizer=models.localizer),
        encoder=models.encoder,
    )


def squashed(image: Image.Image, models: FrozenModels) -> NDArray[np.uint8]:
    side = models.encoder.info.image_size
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))


def numbers_of(batch: PreparedBatch) -> tuple[list[int], list[int]]:
    return [image.record.image_id for image in batch.images], [
        image.image_id for image in batch.quarantined
    ]


def threads_alive() -> int:
    return sum(thread.name.startswith("prepare") for thread in threading.enumerate())


# --- One image -------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 2, 7, 11])
def test_pixels_are_resized_as_segment_anything_and_pillow_do(
    pictures: Pictures, models: FrozenModels, number: int
) -> None:
    prepared = preparation(pictures.folder, models).prepare(pictures.records[number])
    assert isinstance(prepared, PreparedImage)
    assert prepared.record.image_id == number
    image = Image.open(pictures.folder / f"{number}.png")
    for_sam = ResizeLongestSide(models.localizer.image_size).apply_image(np.asarray(image))
    for_clip = squashed(image, models)
    assert prepared.sam_pixels is not None
    assert prepared.clip_pixels is not None
    assert prepared.sam_pixels.dtype == prepared.clip_pixels.dtype == torch.uint8
    np.testing.assert_array_equal(prepared.sam_pixels.permute(1, 2, 0), for_sam)
    np.testing.assert_array_equal(prepared.clip_pixels.permute(1, 2, 0), for_clip)


@pytest.mark.parametrize(
    ("size_hw", "annotated_hw", "orientation", "is_told"),
    [
        ((30, 40), None, 6, True),  # csv: nothing says what the annotators saw
        ((30, 40), None, 3, True),
        ((30, 40), None, 1, False),
        ((30, 40), (30, 40), 6, False),  # coco: the pixels as stored, says the size
        ((30, 40), (30, 40), 3, True),  # upside down, which no size tells
        ((30, 30), (30, 30), 6, True),  # nor does that of a square
    ],
)
def test_an_orientation_is_told_where_no_size_says_what_the_annotators_saw(
    tmp_path: Path,
    models: FrozenModels,
    size_hw: tuple[int, int],
    annotated_hw: tuple[int, int] | None,
    orientation: int,
    is_told: bool,  # noqa: FBT001 - a table
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size_hw[::-1]).save(tmp_path / "0.png", exif=exif)
    record = replace(records_of(tmp_path, [size_hw])[0], annotated_size_hw=annotated_hw)
    ignoring = preparation(tmp_path, models)
    knowing = replace(ignoring, knows_orientation=True)
    prepared = [one.prepare(record) for one in (ignoring, knowing)]
    found = [one.ignored_orientation for one in prepared if isinstance(one, PreparedImage)]
    assert found == [orientation if is_told else 1, 1]


def test_an_image_without_regions_is_prepared_for_clip_only(
    pictures: Pictures, models: FrozenModels
) -> None:
    prepared = preparation(pictures.folder, models).prepare(pictures.records[1])
    assert isinstance(prepared, PreparedImage)
    assert len(prepared.record.labels) == 0
    assert prepared.sam_pixels is None
    side = models.encoder.info.image_size
    assert prepared.clip_pixels is not None
    assert prepared.clip_pixels.shape == (3, side, side)


def test_a_photo_is_turned_when_its_exif_orientation_is_to_be_applied(
    tmp_path: Path, models: FrozenModels
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.random.default_rng(1).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "0.png", exif=exif)
    (annotated_upright,) = records_of(tmp_path, [(50, 30)])
    prepared = preparation(tmp_path, models, exif_policy="apply").prepare(annotated_upright)
    assert isinstance(prepared, PreparedImage)
    assert prepared.clip_pixels is not None
    upright = ImageOps.exif_transpose(Image.open(tmp_path / "0.png"))
    np.testing.assert_array_equal(prepared.clip_pixels.permute(1, 2, 0), squashed(upright, models))
    refused = preparation(tmp_path, models).prepare(annotated_upright)
    assert isinstance(refused, QuarantinedImage)
    assert refused.reason.endswith("; with exif_policy apply it would fit")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("missing", "does not exist"),
        ("folder", "cannot be read: Is a directory"),
        ("empty", "is empty"),
        ("text", "is no image that Pillow can open: it starts with b'not an image'"),
        ("cut", "cannot be decoded: OSError: image file is truncated"),
        ("other size", "is 8 x 6 pixels (width x height), annotated as 40 x 30"),
        ("sliver", "cannot be resized: an image of 1 x 900 pixels (height x width) would"),
    ],
)
def test_an_image_that_cannot_be_used_is_described_for_the_quarantine(
    tmp_path: Path, models: FrozenModels, kind: str, reason: str
) -> None:
    path, size_hw = tmp_path / "0.png", (30, 40)
    noise = np.random.default_rng(0).integers(0, 256, (*size_hw, 3), dtype=np.uint8)
    if kind == "folder":
        path.mkdir()
    elif kind in {"empty", "text"}:
        path.write_bytes(b"" if kind == "empty" else b"not an image")
    elif kind == "cut":
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[:2000])
    elif kind == "other size":
        Image.new("RGB", (8, 6)).save(path)
    elif kind == "sliver":
        size_hw = (1, 900)
        Image.new("RGB", (900, 1)).save(path)
    (record,) = records_of(tmp_path, [size_hw])
    found = preparation(tmp_path, models).prepare(record)
    assert isinstance(found, QuarantinedImage)
    assert (found.key, found.image_id, found.file_name) == ("000000000000", 0, "0.png")
    assert found.reason.startswith(reason)


def test_boxes_of_images_whose_size_is_not_annotated_are_fitted_to_the_decoded_image(
    tmp_path: Path, models: FrozenModels
) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "0.png")
    (tmp_path / "own.csv").write_text(
        "image,x1,y1,x2,y2,label\n"
        "0.png,1,2,3,4,lemon\n"
        "0.png,35,20,50,60,lemon\n"  # reaches over two edges
        "0.png,41,0,45,10,lemon\n",  # lies outside
        encoding="utf-8",
    )
    (record,) = read_annotations("csv", tmp_path / "own.csv", tmp_path).records
    prepared = preparation(tmp_path, models).prepare(record)
    assert isinstance(prepared, PreparedImage)
    assert prepared.record.size_hw == (30, 40)
    assert prepared.record.boxes_xyxy.tolist() == [[1, 2, 3, 4], [35, 20, 40, 30]]
    assert prepared.record.labels.tolist() == [0, 0]
    assert (prepared.num_clipped, prepared.num_dropped) == (1, 1)


# --- Many images -----------------------------------------------------------------------------


@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_batches_are_those_of_the_plan_less_the_unusable_images(
    pictures: Pictures, models: FrozenModels, num_threads: int
) -> None:
    jobs = [
        ShardJob(shard_index=0, records=pictures.records[:5]),
        ShardJob(shard_index=2, records=pictures.records[5:]),
    ]
    with prepared_batches(
        jobs, preparation(pictures.folder, models), batch_size=3, num_threads=num_threads
    ) as batches:
        found = [(batch.shard_index, *numbers_of(batch)) for batch in batches]
    # By hand: batches of three end with their shard; 3 and 8 are left out, nobody moves up.
    assert found == [
        (0, [0, 1, 2], []),
        (0, [4], [3]),
        (2, [5, 6, 7], []),
        (2, [9, 10], [8]),
        (2, [11], []),
    ]


@settings(max_examples=25, deadline=None)
@given(
    shard_sizes=st.lists(st.integers(0, 5), max_size=4),
    batch_size=st.integers(1, 6),
    num_threads=st.integers(1, 4),
)
def test_order_and_batches_do_not_depend_on_threads(
    pictures: Pictures,
    models: FrozenModels,
    shard_sizes: list[int],
    batch_size: int,
    num_threads: int,
) -> None:
    order = itertools.cycle(range(NUM_IMAGES))
    shards = [list(itertools.islice(order, size)) for size in shard_sizes]
    jobs = [
        ShardJob(shard_index=shard, records=[pictures.records[number] for number in numbers])
        for shard, numbers in enumerate(shards)
    ]
    with prepared_batches(
        jobs, preparation(pictures.folder, models), batch_size=batch_size, num_threads=num_threads
    ) as batches:
        found = [(batch.shard_index, *numbers_of(batch)) for batch in batches]
    wanted = [
        (shard, [n for n in planned if n not in BAD], [n for n in planned if n in BAD])
        for shard, numbers in enumerate(shards)
        for planned in (
            numbers[start : start + batch_size] for start in range(0, len(numbers), batch_size)
        )
    ]
    assert found == wanted


@pytest.mark.parametrize(("batch_size", "num_threads"), [(1, 1), (1, 4), (3, 2), (2, 5), (8, 2)])
def test_work_ahead_is_bounded_though_the_plan_is_endless(
    pictures: Pictures, models: FrozenModels, batch_size: int, num_threads: int
) -> None:
    num_begun = 0

    def endless() -> Iterator[ShardJob]:
        nonlocal num_begun
        for shard in itertools.count():
            num_begun += batch_size
            yield ShardJob(shard_index=shard, records=[pictures.records[0]] * batch_size)

    with prepared_batches(
        endless(),
        preparation(pictures.folder, models),
        batch_size=batch_size,
        num_threads=num_threads,
    ) as batches:
        for num_taken, batch in enumerate(itertools.islice(batches, 20), start=1):
            assert batch.shard_index == num_taken - 1
            ahead = num_begun - num_taken * batch_size
            # Every thread has something to do, and a batch more is kept ready, in whole batches.
            assert num_threads <= ahead < num_threads + 2 * batch_size


def test_the_threads_end_with_the_block_however_it_ends(
    pictures: Pictures, models: FrozenModels
) -> None:
    jobs = [ShardJob(shard_index=0, records=pictures.records)]
    prepare = preparation(pictures.folder, models)
    with prepared_batches(jobs, prepare, batch_size=2, num_threads=3) as batches:
        next(batches)
        assert threads_alive() > 0
    assert threads_alive() == 0
    with (
        pytest.raises(KeyboardInterrupt),
        prepared_batches(jobs, prepare, batch_size=2, num_threads=3) as batches,
    ):
        next(batches)
        raise KeyboardInterrupt
    assert threads_alive() == 0


def test_no_shard_gives_no_batch(pictures: Pictures, models: FrozenModels) -> None:
    prepare = preparation(pictures.folder, models)
    with prepared_batches([], prepare, batch_size=2, num_threads=3) as batches:
        assert list(batches) == []
