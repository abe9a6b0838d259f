"""How long batches wait for an image that can be used, and when a run gives up."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from regionspot.annotations import ImageRecord
from regionspot.cache import QuarantinedImage
from regionspot.extraction import (
    AnnotationsConfig,
    CacheConfig,
    PreparedBatch,
    PreparedImage,
    QuarantineGuard,
    TooManyQuarantinedError,
)

GOOD = PreparedImage(
    record=ImageRecord(
        key="a",
        image_id=1,
        file_name="a.jpg",
        annotated_size_hw=(1, 1),
        boxes_xyxy=np.zeros((0, 4), np.float32),
        labels=np.zeros(0, np.int64),
        box_unit="pixel",
    ),
    sam_pixels=None,
    clip_pixels=torch.zeros(3, 1, 1, dtype=torch.uint8),
)
BAD = QuarantinedImage(key="b", image_id=2, file_name="b.jpg", reason="does not exist")


def watch(*, share: float = 1, in_a_row: int = 4, num_images: int = 100) -> QuarantineGuard:
    config = CacheConfig(
        output_dir="cache",
        annotations=AnnotationsConfig(format="csv", path="own.csv", images_dir="photos"),
        max_quarantined_share=share,
        max_quarantined_in_a_row=in_a_row,
    )
    return QuarantineGuard(config, num_images, [BAD])


def batch_of(word: str) -> PreparedBatch:
    return PreparedBatch(
        shard_index=0,
        images=[GOOD] * word.count("g"),
        quarantined=[BAD] * word.count("b"),
        is_usable=[letter == "g" for letter in word],
        ends_shard=False,
    )


def trace(words: str, unusable: QuarantineGuard) -> str:
    """Say what goes in (+) and comes out (-): words are batches, g and b good and bad images."""
    heard = []

    def batches() -> Iterator[PreparedBatch]:
        for word in words.split():
            heard.append(f"+{word}")
            yield batch_of(word)

    try:
        for batch in unusable.checked(batches()):
            word = "".join("bg"[is_usable] for is_usable in batch.is_usable)
            heard.append(f"-{word}")
    except TooManyQuarantinedError as error:
        heard.append(str(error).partition(" images")[0])
    return " ".join(heard)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("", ""),
        ("gg gg", "+gg -gg +gg -gg"),
        ("bg bbg g", "+bg -bg +bbg -bbg +g -g"),  # what a good image follows need not wait
        ("gb gg", "+gb +gg -gb -gg"),
        ("gb gb gb g", "+gb +gb -gb +gb -gb +g -gb -g"),  # one batch with pixels waits, no more
        ("gb b b g", "+gb +b +b +g -gb -b -b -g"),
        ("gb b b bg", "+gb +b +b +bg 4"),
        ("gb bbb gg", "+gb +bbb 4"),
        ("bbb gbbb g bbbg", "+bbb +gbbb -bbb +g -gbbb -g +bbbg -bbbg"),
        ("gg gb bb", "+gg -gg +gb +bb -gb -bb"),  # the end of the plan ends a row, too
    ],
)
def test_a_batch_that_ends_with_unusable_images_waits_for_one_that_can_be_used(
    words: str, wanted: str
) -> None:
    assert trace(words, watch()) == wanted


def test_the_share_counts_images_that_wait_and_those_of_finished_shards() -> None:
    assert trace("gb gb", watch(share=0.02)) == "+gb +gb 3 of 100"
    assert trace("gb b b", watch(share=0.02)) == "+gb +b 3 of 100"


def test_the_message_says_where_to_look_and_what_to_type() -> None:
    with pytest.raises(TooManyQuarantinedError) as caught:
        list(watch(in_a_row=2).checked([batch_of("bbb")]))
    assert str(caught.value) == (
        "2 images in a row cannot be used. The first of them, in photos:\n"
        "  b.jpg does not exist\n  b.jpg does not exist\n"
        "Check whether photos (--annotations.images_dir) still exists; then run the same command"
        " again: none of them is left out yet. To leave out so many, raise"
        " --max_quarantined_in_a_row."
    )
