import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.files import flip_bit
from regionspot.cache import (
    MEMBERS,
    Manifest,
    build_index,
    index_path,
    manifest_path,
    quarantine_path,
    read_sidecar,
    shard_path,
    sidecar_path,
    text_banks_path,
    verify_cache,
    write_manifest,
    write_sidecar,
)
from regionspot.core.errors import MissingFileError


def test_a_sound_cache_has_no_problem(cache_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert verify_cache(cache_dir) == []
    assert "verified shard 3 of 3" in caplog.text
    text_banks_path(cache_dir).unlink()
    assert verify_cache(cache_dir) == []
    (cache_dir / "shards" / "000001.tar.tmp").write_bytes(b"left by a crash")
    assert verify_cache(cache_dir) == []


@pytest.mark.parametrize(
    ("position", "key", "member", "offset", "part"),
    [
        (3, "img_0", "json", 0, "header"),
        (7679 + 400, "img_1", "json", 7680, "header"),
        (530, "img_0", "json", 512, "contents"),
        (7680 + 1024 + 512 + 10, "img_1", "feature_map.npy", 9216, "contents"),
        (7680 + 1024 + 512 + 128 + 5, "img_1", "feature_map.npy", 9216, "contents"),
        (7680 + 1024 + 512 + 128 + 60, "img_1", "feature_map.npy", 9216 + 188, "padding"),
        (7680 + 2048 - 1, "img_1", "feature_map.npy", 9216 + 188, "padding"),
        (7680 + 6 * 1024 + 512 + 130, "img_1", "predicted_iou.npy", 14336, "contents"),
        (7680 + 7 * 1024 + 512 + 3, "img_1", "masks.txt", 15360, "contents"),
        (24064, None, None, 24064, "end"),
        (25087, None, None, 24064, "end"),
    ],
)
def test_a_flipped_bit_in_a_tar_is_found_and_placed(
    position: int, key: str | None, member: str | None, offset: int, part: str, cache_dir: Path
) -> None:
    flip_bit(shard_path(cache_dir, 0), position, bit=position % 8)
    (problem,) = verify_cache(cache_dir)
    assert (problem.shard, problem.key, problem.member, problem.offset) == (0, key, member, offset)
    assert part in problem.message


def test_every_64th_bit_of_a_tar_is_guarded(cache_dir: Path) -> None:
    path = shard_path(cache_dir, 2)
    good = path.read_bytes()
    for bit in range(0, 8 * len(good), 8 * 64 + 1):
        flip_bit(path, bit // 8, bit % 8)
        assert [problem.shard for problem in verify_cache(cache_dir)] == [2], bit
        path.write_bytes(good)


@pytest.mark.parametrize("cut", [1, 512, 1024, 5120])
def test_truncation_even_between_members_is_found(cut: int, cache_dir: Path) -> None:
    path = shard_path(cache_dir, 1)
    path.write_bytes(path.read_bytes()[:-cut])
    (problem,) = verify_cache(cache_dir)
    assert problem.shard == 1
    assert "cut short" in problem.message
    assert problem.offset == 16896 - cut


def test_bytes_after_the_end_are_found(cache_dir: Path) -> None:
    with shard_path(cache_dir, 1).open("ab") as file:
        file.write(b"\0")
    (problem,) = verify_cache(cache_dir)
    assert (problem.shard, problem.offset) == (1, 16896)


def test_flipped_bits_in_every_other_file_are_found(cache_dir: Path) -> None:
    for path in (
        manifest_path(cache_dir),
        sidecar_path(cache_dir, 1),
        index_path(cache_dir),
        quarantine_path(cache_dir),
        text_banks_path(cache_dir),
    ):
        good = path.read_bytes()
        for position in range(0, len(good), len(good) // 7):
            flip_bit(path, position, bit=position % 8)
            problems = verify_cache(cache_dir)
            assert problems, (path, position)
            assert any(path.name in problem.message for problem in problems)
            path.write_bytes(good)
    assert verify_cache(cache_dir) == []


def test_missing_files_are_found(cache_dir: Path) -> None:
    for path in (
        shard_path(cache_dir, 1),
        sidecar_path(cache_dir, 1),
        index_path(cache_dir),
        quarantine_path(cache_dir),
    ):
        good = path.read_bytes()
        path.unlink()
        assert any(path.name in problem.message for problem in verify_cache(cache_dir)), path
        path.write_bytes(good)


def test_two_swapped_shards_are_found(cache_dir: Path) -> None:
    a, b = shard_path(cache_dir, 0), shard_path(cache_dir, 2)
    a.rename(cache_dir / "a")
    b.rename(a)
    (cache_dir / "a").rename(b)
    assert {problem.shard for problem in verify_cache(cache_dir)} == {0, 2}


def test_a_sidecar_that_does_not_describe_its_tar_is_found(cache_dir: Path) -> None:
    sidecar = read_sidecar(cache_dir, 0)
    write_sidecar(cache_dir, replace(sidecar, tar_sha256="0" * 64))
    (problem,) = verify_cache(cache_dir)
    assert "does not have the sha256" in problem.message
    write_sidecar(cache_dir, replace(sidecar, offsets=sidecar.offsets + 512))
    assert {problem.message[:9] for problem in verify_cache(cache_dir)} == {"the place"}
    write_sidecar(cache_dir, replace(sidecar, keys=sidecar.keys[::-1]))
    assert {problem.member for problem in verify_cache(cache_dir)} == set(MEMBERS)


def test_a_shard_beyond_the_plan_is_found(cache_dir: Path) -> None:
    shard_path(cache_dir, 7).write_bytes(shard_path(cache_dir, 0).read_bytes())
    (problem,) = verify_cache(cache_dir)
    assert (problem.shard, problem.message) == (7, "the plan has no such shard")


def test_a_manifest_put_there_later_is_found(cache_dir: Path, manifest: Manifest) -> None:
    write_manifest(cache_dir, replace(manifest, name="renamed"))
    problems = verify_cache(cache_dir)
    assert [problem.shard for problem in problems] == [0, 1, 2]
    assert "another manifest" in problems[0].message


def test_an_index_of_before_is_found_and_rebuilt(
    cache_dir: Path, write_tiny_shard: Callable[[Path, int], None], manifest: Manifest
) -> None:
    stale = index_path(cache_dir).read_bytes()
    write_manifest(cache_dir, replace(manifest, name="again"))
    for shard in range(3):
        write_tiny_shard(cache_dir, shard)
    index_path(cache_dir).write_bytes(stale)
    messages = [problem.message for problem in verify_cache(cache_dir)]
    assert any("manifest_sha256 does not follow" in message for message in messages)
    assert any("sidecar_sha256 does not follow" in message for message in messages)
    build_index(cache_dir)
    assert verify_cache(cache_dir) == []


def test_a_folder_that_is_no_cache_is_not_verified(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no feature cache"):
        verify_cache(tmp_path)
