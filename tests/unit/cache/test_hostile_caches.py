"""Caches that a stranger made: sealed as they should be, and not what this library writes."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from regionspot.cache import (
    BatchTargets,
    CachedSample,
    FeatureCache,
    Manifest,
    Plan,
    TextBankStore,
    build_index,
    collect_stats,
    index_path,
    manifest_path,
    quarantine_path,
    read_quarantine,
    shard_path,
    sidecar_path,
    text_banks_path,
    verify_cache,
    write_manifest,
    write_sealed_hdf5,
    write_shard,
)
from regionspot.core.errors import CacheCorruptError, RegionSpotError

FAR = 2**63 - 1


def rewrite(path: Path, change: Callable[[h5py.File], None]) -> None:
    """Change a sealed HDF5 file, and seal it again."""
    with h5py.File(path) as old:
        attributes = dict(old.attrs)
        contents = {name: old[name] for name in old}

        def fill(h5: h5py.File) -> None:
            for name in contents:
                old.copy(name, h5)
            for name in attributes.keys() - {"schema_version"}:
                h5.attrs[name] = attributes[name]
            change(h5)

        write_sealed_hdf5(path, fill)


def set_column(name: str, value: object) -> Callable[[h5py.File], None]:
    def change(h5: h5py.File) -> None:
        del h5[name]
        h5[name] = value

    return change


def set_entry(name: str, place: object, value: int) -> Callable[[h5py.File], None]:
    def change(h5: h5py.File) -> None:
        column = h5[name][()]
        column[place] = value
        h5[name][...] = column

    return change


def drop_columns(num_left: int) -> Callable[[h5py.File], None]:
    def change(h5: h5py.File) -> None:
        offsets = h5["data_offsets"][:, :num_left]
        del h5["data_offsets"]
        h5["data_offsets"] = offsets

    return change


def set_attribute(name: str, value: object) -> Callable[[h5py.File], None]:
    return lambda h5: h5.attrs.__setitem__(name, value)


CHANGES: dict[str, Callable[[h5py.File], None]] = {
    **{f"data {column}": set_entry("data_offsets", (0, column), FAR) for column in range(7)},
    "data at minus one": set_entry("data_offsets", (1, 2), -1),
    "data in its own header": set_entry("data_offsets", (1, 2), 127),
    "data one byte too far": set_entry("data_offsets", (1, 0), 25088 - 59),
    "a predicted IoU one byte too far": set_entry("data_offsets", (2, 5), 25088 - 7),
    "masks one byte too far": set_entry("data_offsets", (2, 6), 25088 - 3),
    "data before its json": set_entry("data_offsets", (1, 0), 8192 + 1151),
    "data long before its json": set_entry("data_offsets", (1, 0), -(2**63)),
    "members of version 3": drop_columns(5),
    "no masks": drop_columns(6),
    "members of no version": drop_columns(4),
    "json": set_entry("json_offsets", 0, FAR),
    "json at zero": set_entry("json_offsets", 0, 0),
    "json out of order": set_entry("json_offsets", 0, 16384),
    "regions": set_entry("num_regions", 0, 2**31 - 1),
    "minus one region": set_entry("num_regions", 0, -1),
    "shard 3 of 3": set_entry("shards", 5, 3),
    "shard minus one": set_entry("shards", 0, -1),
    "shards out of order": set_entry("shards", 0, 2),
    "a tar of any size": set_entry("tar_bytes", 0, FAR),
    "no pixels": set_entry("sizes_hw", (0, 0), 0),
    "labels": set_entry("label_counts", 0, -1),
    "more classes": set_column("label_counts", np.zeros(4, np.int64)),
    "one image more": set_column("image_ids", np.zeros(7, np.int64)),
    "a column of pairs": set_column("image_ids", np.zeros((6, 2), np.int64)),
    "offsets that are no whole numbers": set_column("json_offsets", np.zeros(6)),
    "offsets of the other byte order": set_column("json_offsets", np.full(6, 512, ">i8")),
    "objects": set_column("keys", np.array(["a"] * 6, h5py.string_dtype())),
    "keys that are none": set_column("keys", np.array([b"../../etc"] * 6)),
    "keys that are not ASCII": set_column("keys", np.array([b"\xff"] * 6)),
    "keys of nothing": set_column("keys", np.array([b"a", b"b", b"c", b"d", b"e", b""])),
    "seals that are not ASCII": set_column("sidecar_sha256", np.array([b"\xff" * 64] * 3)),
    "wider tokens": set_attribute("token_dim", 2**62),
    "other tokens": set_attribute("token_dim", 3),
    "more feature tokens": set_attribute("num_feature_tokens", 6),
    "another dtype": set_attribute("feature_map_dtype", np.bytes_(b"<f8")),
    "an attribute of numbers": set_attribute("token_dim", np.zeros(3)),
    "an attribute of text": set_attribute("feature_map_dtype", "<f2"),
    "a version of numbers": set_attribute("schema_version", [4, 4]),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_sealed_index_with_numbers_that_cannot_be_is_refused_when_opened(
    cache_dir: Path, name: str
) -> None:
    rewrite(index_path(cache_dir), CHANGES[name])
    with pytest.raises(RegionSpotError, match=r"index\.h5|sidecar|tar"):
        FeatureCache.open(cache_dir)


def test_a_dataset_with_room_that_the_file_does_not_have_is_refused(cache_dir: Path) -> None:
    def change(h5: h5py.File) -> None:
        del h5["image_ids"]
        h5.create_dataset("image_ids", shape=(10**13,), dtype=np.int64)

    rewrite(index_path(cache_dir), change)
    with pytest.raises(CacheCorruptError, match="image_ids"):
        FeatureCache.open(cache_dir)


def replaced(name: str, make: Callable[[h5py.File], None]) -> Callable[[h5py.File], None]:
    def change(h5: h5py.File) -> None:
        del h5[name]
        make(h5)

    return change


def storages(elsewhere: Path) -> dict[str, Callable[[h5py.File], None]]:
    ids = np.arange(6)
    layout = h5py.VirtualLayout(shape=(6,), dtype=np.int64)
    layout[:] = h5py.VirtualSource(str(elsewhere), "image_ids", shape=(6,))
    name = "image_ids"
    return {
        "external link": lambda h5: h5.__setitem__(name, h5py.ExternalLink(str(elsewhere), name)),
        "soft link": lambda h5: h5.__setitem__(name, h5py.SoftLink("/shards")),
        "external storage": lambda h5: h5.create_dataset(
            name, (6,), np.int64, external=[(str(elsewhere), 0, 48)]
        ),
        "virtual": lambda h5: h5.create_virtual_dataset(name, layout),
        "packed": lambda h5: h5.create_dataset(name, data=ids, compression="gzip"),
        "chunked": lambda h5: h5.create_dataset(name, data=ids, chunks=(2,)),
        "group": lambda h5: h5.create_group(name),
    }


@pytest.mark.parametrize("name", storages(Path()))
def test_data_in_other_files_and_packed_data_are_refused(cache_dir: Path, name: str) -> None:
    elsewhere = cache_dir.with_name("elsewhere.h5")
    with h5py.File(elsewhere, "w") as h5:
        h5["image_ids"] = np.arange(6)
    rewrite(index_path(cache_dir), replaced("image_ids", storages(elsewhere)[name]))
    with pytest.raises(CacheCorruptError, match=r"index\.h5 is no index.*(link|numbers|stored)"):
        FeatureCache.open(cache_dir)


def test_links_in_text_banks_are_not_followed(cache_dir: Path, manifest: Manifest) -> None:
    """What they lead to is a pipe, which HDF5 would wait for."""
    pipe = cache_dir.with_name("pipe")
    os.mkfifo(pipe)
    link = h5py.ExternalLink(str(pipe), "/")
    for change in (
        replaced("single", lambda h5: h5.__setitem__("single", link)),
        lambda h5: h5["single"].__setitem__("0", link),
        replaced("single", lambda h5: h5.__setitem__("single", 3)),
    ):
        before = text_banks_path(cache_dir).read_bytes()
        rewrite(text_banks_path(cache_dir), change)
        with pytest.raises(CacheCorruptError, match=r"text_banks\.h5.*(link|groups)"):
            FeatureCache.open(cache_dir).text_bank("single")
        assert any("text_banks" in problem.message for problem in verify_cache(cache_dir))
        text_banks_path(cache_dir).write_bytes(before)
    store = TextBankStore(text_banks_path(cache_dir))
    assert store.templates_of(manifest.vocabulary) == ("single",)


def make_irregular(path: Path, kind: str) -> Iterator[None]:
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            here = Path.cwd()
            os.chdir(path.parent)  # addresses are short
            server.bind(path.name)
            os.chdir(here)
            yield
            return
    else:
        path.symlink_to("elsewhere")
    yield


FILES: dict[str, Callable[[Path], Path]] = {
    "manifest": manifest_path,
    "index": index_path,
    "tar": lambda folder: shard_path(folder, 1),
    "sidecar": lambda folder: sidecar_path(folder, 1),
    "text banks": text_banks_path,
    "quarantine": quarantine_path,
}


def read_all(cache_dir: Path) -> None:
    with FeatureCache.open(cache_dir) as cache:
        cache.text_bank("single")
        cache.sample(3)
        read_quarantine(cache_dir)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "socket", "link"])
@pytest.mark.parametrize("file", FILES)
def test_what_is_no_file_is_refused_before_it_is_opened(
    cache_dir: Path, file: str, kind: str
) -> None:
    path = FILES[file](cache_dir)
    path.parent.joinpath("elsewhere").write_bytes(path.read_bytes())
    for _ in make_irregular(path, kind):
        with pytest.raises(CacheCorruptError, match=rf"{path.name} is a .*; wanted a file"):
            read_all(cache_dir)
        if file == "manifest":
            assert path.name in verify_cache(cache_dir)[0].message
        else:
            assert any(f"{path.name} is a " in p.message for p in verify_cache(cache_dir))


def test_a_cache_and_its_shards_may_be_reached_by_a_link(cache_dir: Path) -> None:
    link = cache_dir.with_name("link")
    link.symlink_to(cache_dir, target_is_directory=True)
    (cache_dir / "shards").rename(cache_dir.with_name("another disk"))
    (cache_dir / "shards").symlink_to(cache_dir.with_name("another disk"))
    with FeatureCache.open(link) as cache:
        assert cache.sample(3).key == "img_3"


def batch_targets() -> BatchTargets:
    tensors = (
        torch.zeros((1, 5, 6), dtype=torch.float16),
        torch.zeros((1, 2, 4), dtype=torch.float16),
        torch.zeros((1, 2, 4)),
        torch.zeros((1, 2), dtype=torch.int64),
        torch.zeros((1, 2)),
    )
    return BatchTargets(
        tensors, feature_map_shape=(5, 6), feature_map_dtype=torch.float16, token_dim=4
    )


@pytest.mark.parametrize("first", [2, 3])
def test_a_tar_that_is_cut_while_it_is_read_is_an_error(cache_dir: Path, first: int) -> None:
    """Reading a memory map behind the end of its file ends a process with a bus error."""
    cache = FeatureCache.open(cache_dir)
    cache.sample(first)
    os.truncate(shard_path(cache_dir, 0), 100)
    os.truncate(shard_path(cache_dir, 1), 100)
    with pytest.raises(CacheCorruptError, match=r"was \d{5} bytes when it was opened, and is 100"):
        cache.sample(first)
    with pytest.raises(CacheCorruptError, match=r"was \d{5} bytes when it was opened, and is 100"):
        cache.copy_arrays(np.array([first]), batch_targets())
    with pytest.raises(CacheCorruptError, match=r"000000\.tar"):  # not read before
        cache.sample(1)


def test_labels_that_the_vocabulary_does_not_have_are_refused_when_first_read(
    tmp_path: Path,
    manifest: Manifest,
    make_sample: Callable[[int], CachedSample],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("regionspot.cache.shard_writer.check_sample", lambda *_: None)
    monkeypatch.setattr("regionspot.cache.shard_writer.Counter.update", lambda *_: None)
    write_manifest(tmp_path, manifest)
    for shard in range(3):
        numbers = range(3 * shard, min(3 * shard + 3, 7))
        samples = [make_sample(number) for number in numbers]
        for sample in samples:
            sample.labels[:] = 2**40
        write_shard(tmp_path, shard, samples)
    build_index(tmp_path)
    cache = FeatureCache.open(tmp_path)
    assert cache.sample(0).num_regions == 0
    with pytest.raises(CacheCorruptError, match="image 1 has labels that are none of 3 classes"):
        cache.sample(1)


@pytest.mark.parametrize(
    "line", ['{"key": 1}', "[" * 100_000, '{"image_id": ' + "9" * 5000 + "}", "\xff", "", "3"]
)
def test_a_list_of_quarantined_images_that_is_none_names_the_line(
    cache_dir: Path, line: str
) -> None:
    path = quarantine_path(cache_dir)
    path.write_bytes(path.read_bytes() + line.encode("latin-1") + b"\n")
    for read in (read_quarantine, collect_stats):
        with pytest.raises(CacheCorruptError, match=r"quarantine\.jsonl, line 2 is"):
            read(cache_dir)


FEW_FILES = """
import resource, sys
from regionspot.cache import FeatureCache
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
caches = [FeatureCache.open(sys.argv[1]) for _ in range(3)]
found = [cache.sample(index).key for index in range(150) for cache in caches]
assert found == [f"img_{index}" for index in range(150) for _ in caches]
files = [open("/dev/null")]
try:
    while True:
        files.append(open("/dev/null"))
except OSError:
    pass
for cache in caches:
    cache.sample(7)  # which takes the descriptors of the others
kept = [cache.sample(7) for cache in caches]
try:
    while True:
        files.append(open("/dev/null"))
except OSError:
    pass
caches[1].sample(9)
"""


def test_a_process_that_may_open_few_files_reads_many_shards(
    tmp_path: Path, manifest: Manifest, make_sample: Callable[[int], CachedSample]
) -> None:
    keys = [f"img_{number}" for number in range(150)]
    plan = Plan.from_keys(keys, images_per_shard=1)
    write_manifest(tmp_path, replace(manifest, plan=plan))
    for shard in range(150):
        write_shard(tmp_path, shard, [make_sample(shard)])
    build_index(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", FEW_FILES, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "shard 9 of" in done.stderr
    assert "this process has as many files open as it may. Type `ulimit -Hn`" in done.stderr
    assert "32 of its 150 shards can be open at once" in done.stderr
