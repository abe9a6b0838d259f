"""The writer's thread: in order, bounded, and ended in good order whoever stumbles."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from helpers.worlds import write_world
from regionspot.backbones import ModelsConfig
from regionspot.cache import write_manifest
from regionspot.extraction import (
    AnnotationsConfig,
    CacheConfig,
    CacheJob,
    PreparedBatch,
    ShardJob,
)
from regionspot.extraction.writing import ShardBatch, ShardsWriter, WriterThread

LONG_S = 60.0


def batch(shard_index: int, *, ends_shard: bool) -> ShardBatch:
    prepared = PreparedBatch(
        shard_index=shard_index, images=[], quarantined=[], is_usable=[], ends_shard=ends_shard
    )
    return ShardBatch(prepared=prepared, launched=None)


class Record:
    """Takes down which shards were begun and finished; waits in the first until it may go on."""

    def __init__(self, *, waits: bool = False) -> None:
        self.begun: list[int] = []
        self.finished: list[tuple[int, int]] = []
        self.has_begun, self.may_go_on = threading.Event(), threading.Event()
        if not waits:
            self.may_go_on.set()

    def write(self, shard_index: int, batches: Iterator[ShardBatch]) -> None:
        self.begun.append(shard_index)
        self.has_begun.set()
        assert self.may_go_on.wait(LONG_S)
        self.finished.append((shard_index, sum(1 for _ in batches)))


def test_shards_are_written_in_order_each_with_its_batches() -> None:
    record = Record()
    with WriterThread(record.write) as writer:
        for shard, ends in ((4, False), (4, True), (2, True), (7, False), (7, False), (7, True)):
            writer.put(batch(shard, ends_shard=ends))
    assert record.finished == [(4, 2), (2, 1), (7, 3)]


def test_a_slow_writer_holds_up_who_puts_with_two_batches_waiting() -> None:
    record, num_put = Record(waits=True), 0

    def put_all() -> None:
        nonlocal num_put
        with WriterThread(record.write) as writer:
            for shard in range(9):
                writer.put(batch(shard, ends_shard=True))
                num_put += 1

    thread = threading.Thread(target=put_all)
    thread.start()
    assert record.has_begun.wait(LONG_S)
    thread.join(0.5)
    assert thread.is_alive()
    assert num_put == 3  # one is being written, two wait
    record.may_go_on.set()
    thread.join(LONG_S)
    assert record.finished == [(shard, 1) for shard in range(9)]


def test_an_error_of_the_writer_is_raised_where_batches_are_put() -> None:
    def write(shard_index: int, batches: Iterator[ShardBatch]) -> None:
        raise OSError(28, "No space left on device")

    def put_for_ever() -> None:
        with WriterThread(write) as writer:
            while True:
                writer.put(batch(0, ends_shard=True))

    with pytest.raises(OSError, match="No space left"):
        put_for_ever()
    with pytest.raises(OSError, match="No space left"), WriterThread(write) as writer:
        writer.put(batch(0, ends_shard=True))  # the last one: raised at the end of the block


def test_an_error_where_batches_are_put_lets_whole_shards_be_written_and_no_others() -> None:
    record = Record()
    with pytest.raises(ValueError, match="bad image"), WriterThread(record.write) as writer:
        writer.put(batch(0, ends_shard=True))
        writer.put(batch(1, ends_shard=False))
        raise ValueError("bad image")
    assert record.begun == [0, 1]
    assert record.finished == [(0, 1)]
    assert "regionspot-writer" not in [thread.name for thread in threading.enumerate()]


def test_an_interrupt_lets_nothing_more_be_begun() -> None:
    record = Record(waits=True)
    with pytest.raises(KeyboardInterrupt), WriterThread(record.write) as writer:
        writer.put(batch(0, ends_shard=True))
        writer.put(batch(1, ends_shard=True))
        assert record.has_begun.wait(LONG_S)
        threading.Timer(0.2, record.may_go_on.set).start()
        raise KeyboardInterrupt
    assert record.finished == [(0, 1)]
    assert "regionspot-writer" not in [thread.name for thread in threading.enumerate()]


# --- The whole job ---------------------------------------------------------------------------


@pytest.fixture
def job(tmp_path: Path) -> CacheJob:
    """A job with one thread of 40 images, two of them a batch and a shard."""
    torch.set_num_threads(1)
    write_world(tmp_path, 40)
    annotations = AnnotationsConfig(
        format="csv", path=str(tmp_path / "own.csv"), images_dir=str(tmp_path)
    )
    config = CacheConfig(
        output_dir=str(tmp_path / "cache"),
        annotations=annotations,
        models=ModelsConfig(preset="toy"),
        unknown_words="keep",
        images_per_shard=2,
        batch_size=2,
        device="cpu",
    )
    return CacheJob(config)


def test_a_slow_writer_holds_models_and_preparation_back(job: CacheJob) -> None:
    write_manifest(job.output_dir, job.manifest)
    taken, written = list[int](), list[int]()
    has_begun, may_go_on = threading.Event(), threading.Event()

    def shard_jobs() -> Iterator[ShardJob]:
        for shard in job.shard_jobs(range(20)):
            taken.append(shard.shard_index)
            yield shard

    def after_shard(shard_index: int) -> None:
        has_begun.set()
        assert may_go_on.wait(LONG_S)
        written.append(shard_index)

    def write() -> None:
        ShardsWriter(job).write(shard_jobs(), done=[], after_shard=after_shard)

    thread = threading.Thread(target=write)
    thread.start()
    assert has_begun.wait(LONG_S)
    thread.join(2)  # time enough for the models to go through all images
    assert thread.is_alive()
    # One batch is the writer's, two wait for it, the models hold one, two are being prepared.
    assert taken == [0, 1, 2, 3, 4, 5]
    may_go_on.set()
    thread.join(LONG_S)
    assert taken == written == list(range(20))
