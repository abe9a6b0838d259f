"""A cache behind s3:// is read as one on the disk is, and kept here up to a limit."""

import hashlib
import pickle
import re
import threading
import time
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from s3fs import S3FileSystem
from typing_extensions import override

from regionspot.cache import FeatureCache, verify_cache
from regionspot.cli.main import main
from regionspot.cli.train import train
from regionspot.core.errors import CacheCorruptError, ConfigError, MissingFileError
from regionspot.data import CachedRegions
from regionspot.storage import RemoteFolder, StorageError

MakeCache = Callable[..., Path]


def upload(folder: Path, url: str) -> str:
    S3FileSystem().put(f"{folder}/", url.removeprefix("s3://"), recursive=True)
    return url


@pytest.fixture
def home(bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("REGIONSPOT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def copies(home: Path) -> list[str]:
    """Return the SHA-256 of every tar that is kept here."""
    paths = home.glob("shards/*/tars/*.tar")
    return sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)


def of_shard(folder: Path, *shards: int) -> list[str]:
    paths = [folder / "shards" / f"{shard:06d}.tar" for shard in shards]
    return sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)


def test_samples_are_those_on_the_disk_and_shards_come_when_they_are_touched(
    make_cache: MakeCache, bucket: str, home: Path
) -> None:
    folder = make_cache()
    url = upload(folder, f"{bucket}/cache")
    with FeatureCache.open(folder) as local, FeatureCache.open(url) as remote:
        assert remote.location == url
        assert remote.manifest == local.manifest
        assert copies(home) == []
        for position in (0, 7):
            ours, theirs = remote.sample(position), local.sample(position)
            assert ours.key == theirs.key
            for a, b in zip(ours.arrays, theirs.arrays, strict=True):
                np.testing.assert_array_equal(a, b)
        assert copies(home) == of_shard(folder, 0, 1)
        np.testing.assert_array_equal(remote.text_bank("ensemble81"), local.text_bank("ensemble81"))
        copy = pickle.loads(pickle.dumps(remote))  # noqa: S301 - our own bytes
        assert copy.sample(11).key == local.sample(11).key
        copy.close()


def test_what_was_fetched_is_read_again_without_the_tars(
    make_cache: MakeCache, bucket: str, home: Path
) -> None:
    url = upload(make_cache(), f"{bucket}/cache")
    with FeatureCache.open(url) as cache:
        first = cache.sample(0).feature_map.copy()
        requests = S3FileSystem().find(f"{url.removeprefix('s3://')}/shards")
        cache.close()
        S3FileSystem().rm(requests)
        np.testing.assert_array_equal(cache.sample(0).feature_map, first)


def test_the_longest_unused_shards_go_when_the_limit_is_reached(
    make_cache: MakeCache, bucket: str, home: Path
) -> None:
    folder = make_cache(num_images=20)  # shards of 5
    url = upload(folder, f"{bucket}/cache")
    largest = max(path.stat().st_size for path in folder.glob("shards/*.tar"))
    with FeatureCache.open(url, max_local_gb=2.5 * largest / 1e9) as cache:
        cache.sample(0)
        cache.sample(5)
        cache.close()
        cache.sample(1)  # shard 0 again, from its copy: now shard 1 is the longest unused
        cache.sample(10)
        assert copies(home) == of_shard(folder, 0, 2)
        for position in range(20):
            assert cache.sample(position).image_id == 100 + position
            assert len(copies(home)) <= 2
    with (
        FeatureCache.open(url, max_local_gb=0.5 * largest / 1e9) as cache,
        pytest.raises(ConfigError, match=r"may take only .*Raise data.max_local_gb"),
    ):
        cache.sample(0)


def test_the_limit_is_one_for_all_caches_and_comes_from_the_environment(
    make_cache: MakeCache, bucket: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [make_cache(name, num_images=5, seed=seed) for seed, name in enumerate("ab")]
    urls = [upload(folder, f"{bucket}/{folder.name}") for folder in folders]
    size = max(path.stat().st_size for folder in folders for path in folder.glob("shards/*.tar"))
    monkeypatch.setenv("REGIONSPOT_MAX_LOCAL_GB", str(1.5 * size / 1e9))
    for url, folder in zip(urls, folders, strict=True):
        with FeatureCache.open(url) as cache:
            cache.sample(0)
        assert copies(home) == of_shard(folder, 0)
    monkeypatch.setenv("REGIONSPOT_MAX_LOCAL_GB", "plenty")
    with pytest.raises(ConfigError, match="'plenty'; wanted a number of GB"):
        FeatureCache.open(urls[0])


def test_damage_in_the_bucket_is_named_by_its_url_and_not_kept(
    make_cache: MakeCache, bucket: str, home: Path
) -> None:
    folder = make_cache()
    url = upload(folder, f"{bucket}/cache")
    tar = bytearray((folder / "shards" / "000001.tar").read_bytes())
    tar[3000] ^= 1
    S3FileSystem().pipe_file(f"{url}/shards/000001.tar".removeprefix("s3://"), bytes(tar))
    with FeatureCache.open(url) as cache:
        with pytest.raises(CacheCorruptError, match=f"{url}/shards/000001.tar has the sha256"):
            cache.sample(5)
        assert copies(home) == []
    S3FileSystem().pipe_file(f"{url}/shards/000001.tar".removeprefix("s3://"), bytes(tar[:-512]))
    with pytest.raises(CacheCorruptError, match=f"{url}/shards/000001.tar has {len(tar) - 512} by"):
        FeatureCache.open(url)
    S3FileSystem().rm_file(f"{url}/shards/000001.tar".removeprefix("s3://"))
    with pytest.raises(CacheCorruptError, match=f"{url} is not finished: 1 of its 3 shards"):
        FeatureCache.open(url)


def test_a_cache_behind_a_plain_web_server_can_be_read_and_verified(
    make_cache: MakeCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGIONSPOT_HOME", str(tmp_path / "home"))
    folder = make_cache()
    handler = partial(QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            with FeatureCache.open(url) as remote, FeatureCache.open(folder) as local:
                found, wanted = remote.sample(7), local.sample(7)
            np.testing.assert_array_equal(found.feature_map, wanted.feature_map)
            assert verify_cache(url) == []
            flipped = bytearray((folder / "shards" / "000002.tar").read_bytes())
            flipped[-1] = 1
            (folder / "shards" / "000002.tar").write_bytes(flipped)
            assert [problem.shard for problem in verify_cache(url)] == [2]
        finally:
            server.shutdown()
            thread.join()


class QuietHandler(SimpleHTTPRequestHandler):
    @override
    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_cache_that_was_made_anew_is_fetched_anew(
    make_cache: MakeCache, bucket: str, home: Path
) -> None:
    url = upload(make_cache("a"), f"{bucket}/cache")
    with FeatureCache.open(url) as cache:
        before = cache.sample(0).feature_map.copy()
    folder = make_cache("b", seed=1)
    upload(folder, url)
    with FeatureCache.open(url) as cache, FeatureCache.open(folder) as local:
        found = cache.sample(0).feature_map
        np.testing.assert_array_equal(found, local.sample(0).feature_map)
        assert not np.array_equal(found, before)


def test_training_from_a_bucket_has_the_losses_of_training_from_the_disk(
    make_cache: MakeCache, bucket: str, home: Path, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    folder = make_cache()
    url = upload(folder, f"{bucket}/cache")
    losses = []
    for number, source in enumerate((str(folder), url)):
        root = tmp_path / str(number)
        words = [
            *("fit", "--seed_everything", "7", "--data.train", f"[{source}]"),
            *("--data.batch_size", "4", "--trainer.max_steps", "6", "--trainer.accelerator", "cpu"),
            *("--trainer.default_root_dir", str(root), "--trainer.log_every_n_steps", "1"),
            *("--trainer.enable_progress_bar", "false", "--trainer.limit_val_batches", "0"),
            *("--trainer.use_distributed_sampler", "false", "--model.head.num_blocks", "1"),
            *("--model.head.num_heads", "2", "--model.head.ffn_dim", "24"),
        ]
        train(words)
        (metrics,) = root.glob("csv/version_*/metrics.csv")
        header, *rows = [line.split(",") for line in metrics.read_text().splitlines()]
        column = header.index("train/loss")
        losses.append([row[column] for row in rows if row[column]])
    assert len(losses[0]) == 6
    assert losses[0] == losses[1]


@pytest.mark.usefixtures("home")
def test_a_windowed_shuffle_fetches_each_shard_once_a_pass_with_room_for_two_windows(
    make_cache: MakeCache, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_cache(num_images=40)  # 8 shards of 5
    url = upload(folder, f"{bucket}/cache")
    room_gb = 4.5 * max(path.stat().st_size for path in folder.glob("shards/*.tar")) / 1e9
    fetched: list[str] = []
    fetch = RemoteFolder.fetch

    def counted(remote: RemoteFolder, name: str, path: Path) -> None:
        if name.endswith(".tar"):
            fetched.append(name)
        fetch(remote, name, path)

    monkeypatch.setattr(RemoteFolder, "fetch", counted)
    data = CachedRegions([url], batch_size=4, shuffle_window=2, max_local_gb=room_gb)
    loader = data.train_dataloader()
    for num_kept in (0, 4):  # from the pass before
        fetched.clear()
        assert len({key for batch in loader for key in batch.keys}) == 40
        assert 8 - num_kept <= len(fetched) == len(set(fetched)) <= 8
    fetched.clear()
    list(CachedRegions([url], batch_size=4, max_local_gb=room_gb).train_dataloader())
    assert len(fetched) > 1.5 * len(set(fetched))


def test_what_cannot_be_opened_is_told(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingFileError, match=f"{bucket}/nothing is no feature cache"):
        FeatureCache.open(f"{bucket}/nothing")
    with pytest.raises(StorageError, match="there is no such bucket"):
        FeatureCache.open("s3://not-a-bucket/cache")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    S3FileSystem.clear_instance_cache()
    with pytest.raises(StorageError, match="the server does not answer"):
        FeatureCache.open(f"{bucket}/nothing")


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_reading_ahead_fetches_shards_in_the_background_if_all_of_them_can_be_kept(
    make_cache: MakeCache, bucket: str, home: Path
) -> None:
    folder = make_cache()
    url = upload(folder, f"{bucket}/cache")
    size = sum(path.stat().st_size for path in folder.glob("shards/*.tar"))
    images = np.array([7, 8, 0])
    with FeatureCache.open(url, max_local_gb=0.9 * size / 1e9) as cache:
        cache.read_ahead(images)
        assert not cache._shards._prefetcher._pending
    with FeatureCache.open(url, max_local_gb=1.1 * size / 1e9) as cache:
        cache.read_ahead(images)
        wait_for(lambda: copies(home) == of_shard(folder, 0, 1))


def test_shards_of_the_next_window_are_fetched_while_images_of_this_one_are_drawn(
    make_cache: MakeCache, bucket: str, home: Path
) -> None:
    folder = make_cache(num_images=40)  # 8 shards of 5
    url = upload(folder, f"{bucket}/cache")
    batches = iter(CachedRegions([url], batch_size=4, shuffle_window=2).train_dataloader())
    next(batches)
    # Two more are made ahead: 12 images, of the first two windows, that is of four shards at most.
    # A fifth falls due while they are drawn.
    wait_for(lambda: len(copies(home)) == 5)
    del batches


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("num_kept", "window", "told"),
    [
        (8.1, None, None),
        (7.1, None, r"only .* in random order, shards are downloaded again .*shuffle_window 3\.$"),
        (
            1.5,
            None,
            r"shards are downloaded again and again\. Raise [^,]* has more space\.$",
        ),
        (7.1, 3, None),
        (
            7.1,
            4,
            r"data.shuffle_window 4, .* some shards are downloaded twice\. .*shuffle_window 3\.$",
        ),
    ],
)
def test_too_little_room_for_shards_is_told_before_training(
    num_kept: float,
    window: int | None,
    told: str | None,
    make_cache: MakeCache,
    bucket: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = make_cache(num_images=40)  # 8 shards of nearly the same size
    url = upload(folder, f"{bucket}/cache")
    largest = max(path.stat().st_size for path in folder.glob("shards/*.tar"))
    data = CachedRegions(
        [url], batch_size=4, shuffle_window=window, max_local_gb=num_kept * largest / 1e9
    )
    data.setup("fit")
    texts = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    if told is None:
        assert texts == []
    else:
        (text,) = texts
        assert re.search(told, text)


def test_a_copy_that_is_damaged_later_is_fetched_again(
    make_cache: MakeCache, bucket: str, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_cache()
    url = upload(folder, f"{bucket}/cache")
    with FeatureCache.open(url) as cache:
        wanted = cache.sample(0).feature_map.copy()
    (copy,) = home.glob("shards/*/tars/*.tar")
    content = bytearray(copy.read_bytes())
    content[content.index(wanted.tobytes())] ^= 1
    copy.write_bytes(content)
    with FeatureCache.open(url) as cache:
        np.testing.assert_array_equal(cache.sample(0).feature_map, wanted)
    assert "the copy of shard 0 here was damaged" in caplog.text
    assert copies(home) == of_shard(folder, 0)


@pytest.mark.usefixtures("home")
def test_a_remote_cache_is_merged_to_the_bytes_that_a_local_one_gives(
    make_cache: MakeCache, bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_cache()
    url = upload(folder, f"{bucket}/cache")
    merge = ("cache", "merge", "--images_per_shard", "4", "--output_dir")
    for source, name in ((str(folder), "of a folder"), (url, "of a URL")):
        main([*merge, str(tmp_path / name), source])
    merged, wanted = tmp_path / "of a URL", tmp_path / "of a folder"
    names = sorted(path.relative_to(wanted) for path in wanted.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(merged) for path in merged.rglob("*") if path.is_file())
    assert len(list(wanted.glob("shards/*.tar"))) > 1
    for file in names:
        assert (merged / file).read_bytes() == (wanted / file).read_bytes()
    with pytest.raises(SystemExit, match="2"):
        main([*merge, f"{bucket}/merged", url])
    assert "wanted a local folder" in capsys.readouterr().err
