import io
import json
import mmap
import string
import subprocess
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import webdataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from regionspot.cache import (
    MEMBERS,
    CachedSample,
    Manifest,
    Plan,
    QuarantinedImage,
    ShardReader,
    read_sidecar,
    seal_json,
    shard_is_complete,
    shard_path,
    sidecar_path,
    write_manifest,
    write_shard,
)
from regionspot.core.errors import (
    AnnotationError,
    CacheCorruptError,
    MissingFileError,
    ShapeError,
)

GOLDEN_TAR_SHA256 = "18e9034468e3f4204f1a3430cb5989488b23fbd241b63a629b03080c4615feec"


@pytest.fixture
def begun(tmp_path: Path, manifest: Manifest) -> Path:
    """A cache of which only the manifest is there."""
    write_manifest(tmp_path, manifest)
    return tmp_path


def assert_equal(found: CachedSample, wanted: CachedSample) -> None:
    assert (found.key, found.image_id, found.size_hw) == (
        wanted.key,
        wanted.image_id,
        wanted.size_hw,
    )
    assert (found.file_name, found.masks_rle) == (wanted.file_name, wanted.masks_rle)
    assert found.predicted_iou is not None
    assert wanted.predicted_iou is not None
    ours_and_theirs = zip(found.arrays, wanted.arrays, strict=True)
    for ours, theirs in (*ours_and_theirs, (found.predicted_iou, wanted.predicted_iou)):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
        assert ours.tobytes() == theirs.tobytes()  # also tells 0 from -0


def test_the_tar_of_these_two_images_has_this_hash(tmp_path: Path, manifest: Manifest) -> None:
    """Change it only together with the schema version: caches must stay reproducible."""
    plan = Plan.from_keys(["left", "right"], images_per_shard=2)
    write_manifest(tmp_path, replace(manifest, plan=plan))
    samples = [
        CachedSample(
            key=key,
            image_id=7 + num_regions,
            size_hw=(3, 4),
            boxes_xyxy=np.arange(4 * num_regions, dtype=np.float32).reshape(-1, 4),
            labels=np.arange(num_regions, dtype=np.int64),
            box_scores=np.full(num_regions, 0.5, np.float32),
            position_tokens=np.arange(4 * num_regions, dtype=np.float16).reshape(-1, 4),
            feature_map=np.arange(30, dtype=np.float16).reshape(5, 6),
            predicted_iou=np.full(num_regions, 0.75, np.float32),
            masks_rle=(b"012", b"03")[:num_regions],
            file_name=f"{key}/caf\u00e9.jpg",
        )
        for key, num_regions in [("left", 0), ("right", 2)]
    ]
    sidecar = write_shard(tmp_path, 0, samples)
    data = shard_path(tmp_path, 0).read_bytes()
    assert sha256(data).hexdigest() == sidecar.tar_sha256 == GOLDEN_TAR_SHA256
    # json 512 + 512, feature map 512 + (128 + 60), others 512 + 128 + at most 64, each padded to
    # 1024 in all: sixteen members, of which the masks of no region take 512, and the two blocks of
    # the end
    assert len(data) == sidecar.tar_bytes == 16 * 1024 - 512 + 1024
    assert data[-1536:-1024] == b"012\n03\n".ljust(512, b"\0")
    meta = (
        b'{"file_name":"left/caf\\u00e9.jpg","image_id":7,"key":"left",'
        b'"num_clipped_regions":0,"num_dropped_regions":0,'
        b'"num_regions":0,"size_hw":[3,4]}'
    )
    assert data[512:1024] == meta.ljust(512, b"\0")


def test_array_data_lies_on_64_byte_boundaries_and_a_map_of_the_tar_is_the_array(
    begun: Path,
    make_sample: Callable[[int], CachedSample],
    write_tiny_shard: Callable[[Path, int], None],
) -> None:
    write_tiny_shard(begun, 0)
    wanted = make_sample(2)
    with shard_path(begun, 0).open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    # Image 2 is the third one; each image before it takes eight members of 1024 bytes, but the
    # first, of no masks, 512 less. The data of a member starts after a tar header of 512 and, for
    # an array, an .npy header of 128 bytes.
    feature_map = np.frombuffer(mapped, "<f2", 30, 15872 + 1024 + 640).reshape(5, 6)
    tokens = np.frombuffer(mapped, "<f2", 8, 15872 + 2 * 1024 + 640).reshape(2, 4)
    boxes = np.frombuffer(mapped, "<f4", 8, 15872 + 3 * 1024 + 640).reshape(2, 4)
    labels = np.frombuffer(mapped, "<i8", 2, 15872 + 4 * 1024 + 640)
    box_scores = np.frombuffer(mapped, "<f4", 2, 15872 + 5 * 1024 + 640)
    np.testing.assert_array_equal(feature_map, wanted.feature_map)
    np.testing.assert_array_equal(tokens, wanted.position_tokens)
    np.testing.assert_array_equal(boxes, wanted.boxes_xyxy)
    np.testing.assert_array_equal(labels, wanted.labels)
    np.testing.assert_array_equal(box_scores, wanted.box_scores)
    predicted_iou = np.frombuffer(mapped, "<f4", 2, 15872 + 6 * 1024 + 640)
    np.testing.assert_array_equal(predicted_iou, wanted.predicted_iou)
    masks = mapped[15872 + 7 * 1024 + 512 : 15872 + 8 * 1024].rstrip(b"\0")
    assert tuple(masks.splitlines()) == wanted.masks_rle
    data_offsets = read_sidecar(begun, 0).data_offsets
    assert data_offsets[2].tolist() == [17536, 18560, 19584, 20608, 21632, 22656, 23552]
    assert not (data_offsets % 64).any()


def test_samples_are_views_of_the_map_that_outlive_the_reader(
    begun: Path,
    make_sample: Callable[[int], CachedSample],
    write_tiny_shard: Callable[[Path, int], None],
) -> None:
    write_tiny_shard(begun, 0)
    with ShardReader(shard_path(begun, 0), read_sidecar(begun, 0)) as reader:
        assert len(reader) == 3
        samples = [reader.sample(index) for index in range(3)]
        with pytest.raises(IndexError):
            reader.sample(3)
    with pytest.raises(ValueError, match="was closed"):
        reader.sample(0)
    for number, sample in enumerate(samples):
        assert_equal(sample, make_sample(number))
        assert not sample.feature_map.flags.owndata
        assert not sample.feature_map.flags.writeable


# webdataset leaves closing its tars to the garbage collector
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_stock_webdataset_reads_a_shard(
    begun: Path,
    make_sample: Callable[[int], CachedSample],
    write_tiny_shard: Callable[[Path, int], None],
) -> None:
    write_tiny_shard(begun, 1)
    dataset = webdataset.WebDataset(str(shard_path(begun, 1)), shardshuffle=False).decode()
    read = list(dataset)
    assert [sample["__key__"] for sample in read] == ["img_3", "img_5"]
    for sample, wanted in zip(read, [make_sample(3), make_sample(5)], strict=True):
        assert sample["json"] == {
            "file_name": wanted.file_name,
            "image_id": wanted.image_id,
            "key": wanted.key,
            "num_clipped_regions": 0,
            "num_dropped_regions": 0,
            "num_regions": wanted.num_regions,
            "size_hw": list(wanted.size_hw),
        }
        arrays = (*wanted.arrays, wanted.predicted_iou)
        for member, array in zip(MEMBERS[1:-1], arrays, strict=True):
            assert array is not None
            np.testing.assert_array_equal(sample[member], array)
            assert sample[member].dtype == array.dtype
        masks = sample["masks.txt"].splitlines()
        assert tuple(counts.encode() for counts in masks) == wanted.masks_rle


def test_tar_headers_tell_nothing_of_time_and_place(
    begun: Path, write_tiny_shard: Callable[[Path, int], None]
) -> None:
    write_tiny_shard(begun, 0)
    with tarfile.open(shard_path(begun, 0)) as tar:
        members = tar.getmembers()
    assert [member.name for member in members[:9]] == [
        "img_0.json",
        "img_0.feature_map.npy",
        "img_0.position_tokens.npy",
        "img_0.boxes_xyxy.npy",
        "img_0.labels.npy",
        "img_0.box_scores.npy",
        "img_0.predicted_iou.npy",
        "img_0.masks.txt",
        "img_1.json",
    ]
    for member in members:
        assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (
            0,
            0,
            0,
            "",
            "",
        )
        assert (member.mode, member.type, member.pax_headers) == (0o644, tarfile.REGTYPE, {})


def test_python_s_tarfile_and_numpy_make_the_same_tar(
    begun: Path,
    make_sample: Callable[[int], CachedSample],
    write_tiny_shard: Callable[[Path, int], None],
) -> None:
    write_tiny_shard(begun, 0)
    theirs = io.BytesIO()
    with tarfile.open(fileobj=theirs, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number in range(3):
            sample = make_sample(number)
            meta = f'{{"file_name":"caf\\u00e9/{number}.jpg","image_id":{100 + number},'
            meta += f'"key":"img_{number}","num_clipped_regions":0,'
            meta += (
                f'"num_dropped_regions":0,"num_regions":{number},"size_hw":[480,{640 + number}]}}'
            )
            payloads = [meta.encode()]
            assert sample.predicted_iou is not None
            for array in (*sample.arrays, sample.predicted_iou):
                file = io.BytesIO()
                np.save(file, array)
                payloads.append(file.getvalue())
            payloads.append(b"".join(counts + b"\n" for counts in sample.masks_rle or ()))
            for member, payload in zip(MEMBERS, payloads, strict=True):
                info = tarfile.TarInfo(f"img_{number}.{member}")
                info.size = len(payload)
                tar.addfile(info, io.BytesIO(payload))
    # tarfile fills its last 10 KiB up with zeros; ours ends after the two blocks that mark the end
    ours = shard_path(begun, 0).read_bytes()
    assert theirs.getvalue().rstrip(b"\0") == ours.rstrip(b"\0")
    assert ours.endswith(bytes(1024))


def test_gnu_tar_finds_nothing_to_complain_about(
    begun: Path, write_tiny_shard: Callable[[Path, int], None]
) -> None:
    write_tiny_shard(begun, 0)
    done = subprocess.run(
        ["tar", "-tf", str(shard_path(begun, 0))],  # noqa: S607
        capture_output=True,
        check=True,
        text=True,
    )
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 24


def test_the_sidecar_says_where_each_member_is_and_what_it_hashes_to(
    begun: Path, write_tiny_shard: Callable[[Path, int], None], manifest: Manifest
) -> None:
    write_tiny_shard(begun, 1)
    values = json.loads(sidecar_path(begun, 1).read_text(encoding="utf-8"))
    data = shard_path(begun, 1).read_bytes()
    assert values["tar_sha256"] == sha256(data).hexdigest()
    assert values["tar_bytes"] == len(data)
    assert values["manifest_sha256"] == manifest.sha256
    assert (values["num_images"], values["num_regions"]) == (2, 2)
    assert (values["keys"], values["image_ids"]) == (["img_3", "img_5"], [103, 105])
    assert values["sizes_hw"] == [[480, 643], [480, 645]]
    assert values["regions"] == [0, 2]
    assert values["checksum"] == "crc32"
    assert values["members"] == list(MEMBERS)
    assert values["quarantined"] == [
        {
            "key": "img_4",
            "image_id": 104,
            "file_name": "a/b 4.jpg",
            "reason": "cannot be decoded: caf\u00e9",
        }
    ]
    with tarfile.open(shard_path(begun, 1)) as tar:
        placed = [(member.offset_data, member.size) for member in tar]
    stated = [
        (offset, length)
        for offsets, lengths in zip(values["offsets"], values["lengths"], strict=True)
        for offset, length in zip(offsets, lengths, strict=True)
    ]
    assert stated == placed
    checksums = [checksum for row in values["checksums"] for checksum in row]
    assert checksums == [zlib.crc32(data[start : start + size]) for start, size in placed]


def test_a_sidecar_of_a_thousand_images_stays_small(tmp_path: Path, manifest: Manifest) -> None:
    keys = [f"{number:012d}" for number in range(1000)]
    write_manifest(tmp_path, replace(manifest, plan=Plan.from_keys(keys, images_per_shard=1000)))
    write_shard(tmp_path, 0, (tiny_sample(key, num_regions=1) for key in keys))
    assert sidecar_path(tmp_path, 0).stat().st_size < 250_000


def tiny_sample(key: str, *, num_regions: int) -> CachedSample:
    return CachedSample(
        key=key,
        image_id=1,
        size_hw=(2, 2),
        boxes_xyxy=np.zeros((num_regions, 4), np.float32),
        labels=np.zeros(num_regions, np.int64),
        box_scores=np.ones(num_regions, np.float32),
        position_tokens=np.zeros((num_regions, 4), np.float16),
        feature_map=np.zeros((5, 6), np.float16),
        predicted_iou=np.ones(num_regions, np.float32),
        masks_rle=(b"04",) * num_regions,
        file_name=f"{key}.jpg",
    )


PATH_LETTERS = st.characters(codec="utf-8", exclude_characters="./")
RLE = st.text([chr(code) for code in range(48, 112)], min_size=1, max_size=600).map(str.encode)


@st.composite
def samples_of_one_shard(draw: st.DrawFn) -> list[CachedSample]:
    names = st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=80)
    keys = draw(st.lists(names, max_size=4, unique=True))
    bits = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def half(*shape: int) -> NDArray[np.float16]:
        values = bits.integers(0, 1 << 16, shape, dtype=np.uint16).view(np.float16)
        return np.where(np.isfinite(values), values, np.float16(0))

    samples = []
    for key in keys:
        num_regions = draw(st.integers(0, 5))
        samples.append(
            CachedSample(
                key=key,
                image_id=draw(st.integers(-(2**63), 2**63 - 1)),
                size_hw=draw(st.tuples(st.integers(1, 99999), st.integers(1, 99999))),
                boxes_xyxy=bits.standard_normal((num_regions, 4), dtype=np.float32),
                labels=bits.integers(0, 3, num_regions),
                box_scores=bits.random(num_regions, dtype=np.float32),
                position_tokens=half(num_regions, 4),
                feature_map=half(5, 6),
                predicted_iou=bits.standard_normal(num_regions, dtype=np.float32),
                masks_rle=tuple(draw(st.lists(RLE, min_size=num_regions, max_size=num_regions))),
                file_name="a" + draw(st.text(PATH_LETTERS, max_size=900)),  # longer than a block
            )
        )
    return samples


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # the manifest never changes
)
@given(samples=samples_of_one_shard())
def test_reading_returns_every_bit_that_was_written(
    samples: list[CachedSample], tmp_path_factory: pytest.TempPathFactory, manifest: Manifest
) -> None:
    folder = tmp_path_factory.mktemp("shard")
    gone = QuarantinedImage(key="g" * 81, image_id=0, file_name="x", reason="in no other sample")
    keys = [*(sample.key for sample in samples), gone.key]
    write_manifest(folder, replace(manifest, plan=Plan.from_keys(keys, images_per_shard=9)))
    sidecar = write_shard(folder, 0, samples, [gone])
    with ShardReader(shard_path(folder, 0), read_sidecar(folder, 0)) as reader:
        assert len(reader) == len(samples)
        for index, wanted in enumerate(samples):
            assert_equal(reader.sample(index), wanted)
    first = shard_path(folder, 0).read_bytes()
    assert write_shard(folder, 0, samples, [gone]).tar_sha256 == sidecar.tar_sha256
    assert shard_path(folder, 0).read_bytes() == first


def test_a_shard_may_hold_no_image_at_all(begun: Path) -> None:
    gone = [
        QuarantinedImage(key=f"k{i}", image_id=i, file_name=f"{i}.jpg", reason="broken")
        for i in range(3)
    ]
    sidecar = write_shard(begun, 0, [], gone)
    assert shard_path(begun, 0).read_bytes() == bytes(1024)
    assert shard_is_complete(begun, 0)
    with ShardReader(shard_path(begun, 0), sidecar) as reader:
        assert len(reader) == 0


def test_images_found_broken_on_the_way_may_be_added_to_the_quarantine(
    begun: Path, make_sample: Callable[[int], CachedSample]
) -> None:
    broken: list[QuarantinedImage] = []

    def samples() -> Iterator[CachedSample]:
        yield make_sample(0)
        broken.append(QuarantinedImage(key="img_1", image_id=1, file_name="1", reason="broken"))
        yield make_sample(2)

    assert write_shard(begun, 0, samples(), broken).quarantined == tuple(broken)


def test_a_crash_while_writing_leaves_the_shard_absent(
    begun: Path,
    make_sample: Callable[[int], CachedSample],
    write_tiny_shard: Callable[[Path, int], None],
) -> None:
    def crash() -> Iterator[CachedSample]:
        yield make_sample(0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(begun, 0, crash())
    assert not shard_path(begun, 0).exists()
    assert not sidecar_path(begun, 0).exists()
    assert not shard_is_complete(begun, 0)
    write_tiny_shard(begun, 0)
    assert shard_is_complete(begun, 0)
    assert sorted(path.name for path in shard_path(begun, 0).parent.iterdir()) == [
        "000000.json",
        "000000.tar",
    ]


def test_a_crash_while_rewriting_leaves_no_sidecar_of_the_former_tar(
    begun: Path,
    make_sample: Callable[[int], CachedSample],
    write_tiny_shard: Callable[[Path, int], None],
) -> None:
    write_tiny_shard(begun, 0)

    def crash() -> Iterator[CachedSample]:
        yield make_sample(0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(begun, 0, crash())
    assert shard_path(begun, 0).is_file()
    assert not shard_is_complete(begun, 0)


def test_a_tar_without_sidecar_is_not_complete(
    begun: Path, write_tiny_shard: Callable[[Path, int], None]
) -> None:
    write_tiny_shard(begun, 0)
    sidecar_path(begun, 0).unlink()
    assert not shard_is_complete(begun, 0)
    with pytest.raises(MissingFileError, match="000000.json"):
        read_sidecar(begun, 0)


def test_a_cut_tar_a_missing_tar_and_a_damaged_sidecar_are_not_complete(
    begun: Path, write_tiny_shard: Callable[[Path, int], None]
) -> None:
    write_tiny_shard(begun, 0)
    tar, sidecar = shard_path(begun, 0), sidecar_path(begun, 0)
    data, text = tar.read_bytes(), sidecar.read_text(encoding="utf-8")
    tar.write_bytes(data[:-512])
    assert not shard_is_complete(begun, 0)
    tar.unlink()
    assert not shard_is_complete(begun, 0)
    tar.write_bytes(data)
    assert shard_is_complete(begun, 0)
    sidecar.write_text(text.replace("img_0", "img_8"), encoding="utf-8")
    assert not shard_is_complete(begun, 0)


def test_a_shard_of_another_manifest_is_not_complete(
    begun: Path, manifest: Manifest, write_tiny_shard: Callable[[Path, int], None]
) -> None:
    write_tiny_shard(begun, 0)
    write_manifest(begun, replace(manifest, annotation_sha256="b" * 64))
    assert not shard_is_complete(begun, 0)


@pytest.mark.parametrize("extra", [-1024, -1, 1])
def test_a_tar_of_another_size_is_refused_before_it_is_mapped(
    extra: int, begun: Path, write_tiny_shard: Callable[[Path, int], None]
) -> None:
    write_tiny_shard(begun, 0)
    path = shard_path(begun, 0)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size + extra)
    with pytest.raises(CacheCorruptError, match=f"has {size + extra} bytes; wanted {size}"):
        ShardReader(path, read_sidecar(begun, 0))


def test_a_missing_tar_is_named(begun: Path, write_tiny_shard: Callable[[Path, int], None]) -> None:
    write_tiny_shard(begun, 0)
    shard_path(begun, 0).unlink()
    with pytest.raises(CacheCorruptError, match=r"000000\.tar is missing"):
        ShardReader(shard_path(begun, 0), read_sidecar(begun, 0))


@pytest.mark.parametrize(
    ("offset", "found"),
    [(1536, "no <f2 array"), (512, "no JSON"), (515, "has no file name"), (545, "described by")],
)
def test_bytes_that_are_not_what_should_lie_there_are_refused(
    offset: int, found: str, begun: Path, write_tiny_shard: Callable[[Path, int], None]
) -> None:
    write_tiny_shard(begun, 0)
    with shard_path(begun, 0).open("r+b") as file:
        file.seek(offset)
        file.write(b"#")
    with (
        ShardReader(shard_path(begun, 0), read_sidecar(begun, 0)) as reader,
        pytest.raises(CacheCorruptError, match=found),
    ):
        reader.sample(0)


def test_offsets_outside_the_tar_are_refused(
    begun: Path, write_tiny_shard: Callable[[Path, int], None]
) -> None:
    write_tiny_shard(begun, 0)
    sidecar = read_sidecar(begun, 0)
    beyond = replace(sidecar, offsets=sidecar.offsets + sidecar.tar_bytes)
    with pytest.raises(CacheCorruptError, match="points outside"):
        ShardReader(shard_path(begun, 0), beyond)


def test_a_renamed_sidecar_is_refused(
    begun: Path, write_tiny_shard: Callable[[Path, int], None]
) -> None:
    write_tiny_shard(begun, 0)
    sidecar_path(begun, 0).rename(sidecar_path(begun, 1))
    with pytest.raises(CacheCorruptError, match="is the sidecar of shard 0"):
        read_sidecar(begun, 1)


def test_a_sidecar_of_another_kind_is_refused(
    begun: Path, write_tiny_shard: Callable[[Path, int], None]
) -> None:
    write_tiny_shard(begun, 0)
    values = json.loads(sidecar_path(begun, 0).read_text(encoding="utf-8"))
    for change in ({"checksum": "md5"}, {"regions": [0, 1]}, {"keys": None}, {"shard": "0"}):
        forged = {name: values[name] for name in values if name not in {"schema_version", "sha256"}}
        text, _ = seal_json(forged | change)
        sidecar_path(begun, 0).write_text(text, encoding="utf-8")
        with pytest.raises(CacheCorruptError, match=r"000000\.json"):
            read_sidecar(begun, 0)


def test_the_manifest_comes_before_the_first_shard(
    tmp_path: Path, make_sample: Callable[[int], CachedSample]
) -> None:
    with pytest.raises(MissingFileError, match=r"manifest\.json"):
        write_shard(tmp_path, 0, [make_sample(0)])


def test_shards_that_the_plan_has_not_are_refused(begun: Path) -> None:
    with pytest.raises(IndexError):
        write_shard(begun, 3, [])


def test_every_planned_image_must_be_accounted_for(
    begun: Path, make_sample: Callable[[int], CachedSample]
) -> None:
    with pytest.raises(ShapeError, match="2 samples and 0 quarantined images; its plan has 3"):
        write_shard(begun, 0, [make_sample(0), make_sample(1)])
    with pytest.raises(AnnotationError, match="'img_0'"):
        write_shard(begun, 0, [make_sample(0), make_sample(0), make_sample(1)])
    assert not shard_path(begun, 0).exists()


def test_samples_must_fit_the_manifest(
    begun: Path, make_sample: Callable[[int], CachedSample]
) -> None:
    sample = make_sample(2)
    misfits = {
        "feature map": replace(sample, feature_map=np.zeros((5, 7), np.float16)),
        "position tokens": replace(sample, position_tokens=np.zeros((2, 8), np.float16)),
        "wanted 0 to 2": replace(sample, labels=np.array([0, 3])),
        "labels reach from -1": replace(sample, labels=np.array([-1, 0])),
        "feature_map.npy holds values that are not finite": replace(
            sample, feature_map=np.full((5, 6), np.inf, np.float16)
        ),
        "wanted 0 to 1": replace(sample, box_scores=np.array([0.5, 1.5], np.float32)),
        "boxes_xyxy.npy holds": replace(sample, boxes_xyxy=np.full((2, 4), np.nan, np.float32)),
    }
    for message, misfit in misfits.items():
        with pytest.raises(ShapeError, match=message):
            write_shard(begun, 0, [misfit])


def test_proposals_have_no_class_and_nothing_else_may_lack_one(
    tmp_path: Path, manifest: Manifest, make_sample: Callable[[int], CachedSample]
) -> None:
    plan = Plan.from_keys(["img_2"], images_per_shard=1)
    write_manifest(tmp_path, replace(manifest, plan=plan, proposals="file 1234"))
    sample = make_sample(2)
    with pytest.raises(ShapeError, match="wanted -1 to -1, as proposals have no class"):
        write_shard(tmp_path, 0, [sample])
    proposed = replace(sample, labels=np.array([-1, -1]))
    assert write_shard(tmp_path, 0, [proposed]).label_counts == ()
    with ShardReader(shard_path(tmp_path, 0), read_sidecar(tmp_path, 0)) as reader:
        assert reader.sample(0).labels.tolist() == [-1, -1]
        assert reader.sample(0).box_scores.tolist() == [0.25, 1.0]


def test_what_decoding_did_to_regions_is_kept_by_image_and_summed_by_shard(
    begun: Path, make_sample: Callable[[int], CachedSample]
) -> None:
    samples = [
        replace(make_sample(0), num_dropped_regions=3),
        make_sample(1),
        replace(make_sample(2), num_clipped_regions=2, num_dropped_regions=1),
    ]
    sidecar = write_shard(begun, 0, samples)
    assert (sidecar.num_clipped_regions, sidecar.num_dropped_regions) == (2, 4)
    with ShardReader(shard_path(begun, 0), read_sidecar(begun, 0)) as reader:
        assert [reader.sample(image).num_dropped_regions for image in range(3)] == [3, 0, 1]
        assert [reader.sample(image).num_clipped_regions for image in range(3)] == [0, 0, 2]
