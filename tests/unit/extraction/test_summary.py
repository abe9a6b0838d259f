"""The last lines of a run."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from regionspot.annotations import read_annotations
from regionspot.extraction import CacheSummary


@pytest.fixture
def summary(tmp_path: Path) -> CacheSummary:
    content = {
        "images": [{"id": 1, "file_name": "1.jpg", "height": 30, "width": 40}],
        "annotations": [
            {"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10]},
            {"image_id": 1, "category_id": 1, "bbox": [0, 0, 0, 10]},
        ],
        "categories": [{"id": 1, "name": "lemon"}],
    }
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return CacheSummary(
        location="caches/lemons",
        annotations=read_annotations("coco", path, tmp_path).report,
        num_images=12_345,
        num_regions=67_890,
        num_clipped_regions=0,
        num_dropped_regions=0,
        num_quarantined=0,
        num_shards=13,
        num_bytes=6_500_000_000,
        num_new_images=12_345,
        seconds=500.0,
    )


def test_a_run_says_what_it_made_and_how_fast(summary: CacheSummary) -> None:
    assert summary.lines()[-2:] == [
        "caches/lemons: 12,345 images, 67,890 regions, 13 shards, 6.5 GB",
        "12,345 images in 500.0 s, 24.7 images/s",
    ]


def test_what_was_dropped_from_the_annotations_is_said_first(summary: CacheSummary) -> None:
    text = "\n".join(summary.lines())
    assert text.startswith("1 images, 1 regions of 2 annotations\n")
    assert "dropped 1 boxes of zero area" in text


def test_images_that_were_left_out_are_counted_with_the_place_of_the_reasons(
    summary: CacheSummary,
) -> None:
    lines = replace(summary, num_quarantined=1_234).lines()
    assert any(
        line.startswith("left out: 1,234 images; caches/lemons/quarantine.jsonl") for line in lines
    )


def test_a_run_with_nothing_to_do_says_so(summary: CacheSummary) -> None:
    assert replace(summary, num_new_images=0, seconds=0.0).lines()[-1] == (
        "already complete, nothing to do"
    )


def test_a_run_that_took_no_time_divides_by_no_zero(summary: CacheSummary) -> None:
    assert replace(summary, seconds=0.0).lines()[-1].startswith("12,345 images in 0.0 s, ")


def test_what_decoding_did_to_regions_is_told(summary: CacheSummary) -> None:
    assert "decoded" not in "\n".join(summary.lines())
    told = replace(summary, num_clipped_regions=1_234, num_dropped_regions=5).lines()
    assert told[-3] == "1,234 boxes clipped to the decoded image"
    assert told[-2].startswith("dropped 5 boxes of decoded images: outside")
