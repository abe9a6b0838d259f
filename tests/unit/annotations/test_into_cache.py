"""Annotations without image sizes, and a category tree, through the tiny towers into a cache."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regionspot.backbones import ModelsConfig
from regionspot.cache import FeatureCache, read_category_tree
from regionspot.core.errors import AnnotationError
from regionspot.extraction import AnnotationsConfig, CacheConfig, cache_features

A, B = "00000000000000aa", "ffffffffffffffff"


@pytest.fixture
def images_dir(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in (A, B):
        pixels = rng.integers(0, 256, (30, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.jpg")
    return tmp_path


def cached(annotations: AnnotationsConfig, folder: Path) -> FeatureCache:
    cache_features(
        CacheConfig(
            output_dir=str(folder / "cache"),
            annotations=annotations,
            models=ModelsConfig(preset="toy"),
            templates=["none"],
            device="cpu",
        )
    )
    return FeatureCache.open(folder / "cache")


def test_relative_boxes_are_stored_in_pixels_of_the_image(images_dir: Path) -> None:
    header = (
        "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,"
        "IsGroupOf,IsDepiction,IsInside"
    )
    rows = [f"{B},xclick,/m/b,1,0.2,0.5,0,1,0,0,0,0,0", f"{A},xclick,/m/a,1,0,1,0,0.5,0,0,1,0,0"]
    (images_dir / "boxes.csv").write_text("\n".join([header, *rows]))
    (images_dir / "classes.csv").write_text("/m/a,star\n/m/b,egg\n")
    config = AnnotationsConfig(
        format="openimages",
        path=str(images_dir / "boxes.csv"),
        images_dir=str(images_dir),
        classes_path=str(images_dir / "classes.csv"),
    )
    with cached(config, images_dir) as cache:
        first, second = cache.sample(0), cache.sample(1)
        assert (first.key, first.image_id, first.size_hw) == (B, -1, (30, 50))
        assert first.boxes_xyxy.tolist() == [[10, 0, 25, 30]]
        assert first.labels.tolist() == [1]
        assert (second.key, second.image_id, second.num_regions) == (A, 0xAA, 0)
        assert cache.manifest.vocabulary.names == ("star", "egg")


def test_boxes_that_turn_out_to_lie_outside_are_left_out_and_counted(images_dir: Path) -> None:
    rows = [f"{A}.jpg,5,5,70,20,egg", f"{A}.jpg,60,5,70,20,egg", f"{B}.jpg,60,5,70,20,gem"]
    (images_dir / "own.csv").write_text("\n".join(["image,x1,y1,x2,y2,label", *rows]))
    config = AnnotationsConfig(
        format="csv", path=str(images_dir / "own.csv"), images_dir=str(images_dir)
    )
    with cached(config, images_dir) as cache:
        first, second = cache.sample(0), cache.sample(1)
        assert first.boxes_xyxy.tolist() == [[5, 5, 50, 20]]
        assert (first.num_clipped_regions, first.num_dropped_regions) == (1, 1)
        assert (second.num_regions, second.num_dropped_regions) == (0, 1)
        assert (cache.index.num_clipped_regions, cache.index.num_dropped_regions) == (1, 2)


def test_boxes_of_larger_images_are_refused_before_anything_is_cached(images_dir: Path) -> None:
    rows = [f"{name}.jpg,{n},4{n},{n}5,5{n},a" for name in (A, B) for n in (3, 4, 5)]
    (images_dir / "own.csv").write_text("\n".join(["image,x1,y1,x2,y2,label", *rows]))
    config = AnnotationsConfig(
        format="csv", path=str(images_dir / "own.csv"), images_dir=str(images_dir)
    )
    message = r"own\.csv: 6 of 6 boxes reach far over .* of an image of 50 x 30 pixels"
    with pytest.raises(AnnotationError, match=message):
        cached(config, images_dir)
    assert not (images_dir / "cache").exists()
    with cached(replace(config, implausible="accept"), images_dir) as cache:
        assert cache.index.num_dropped_regions == 6


def test_photos_whose_orientation_was_ignored_are_counted_in_the_last_lines(
    images_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown 30 wide and 50 high
    Image.new("RGB", (50, 30)).save(images_dir / f"{A}.jpg", exif=exif)
    rows = [f"{A}.jpg,5,5,20,45,a", f"{B}.jpg,5,5,45,20,a"]
    (images_dir / "own.csv").write_text("\n".join(["image,x1,y1,x2,y2,label", *rows]))
    config = CacheConfig(
        output_dir=str(images_dir / "cache"),
        annotations=AnnotationsConfig(
            format="csv", path=str(images_dir / "own.csv"), images_dir=str(images_dir)
        ),
        models=ModelsConfig(preset="toy"),
        templates=["none"],
        device="cpu",
    )
    lines = cache_features(config).lines()
    assert lines[-1] == (
        "1 images whose EXIF orientation was ignored: if their boxes refer to the photo as viewers"
        " show it, give --exif_policy apply"
    )
    (told,) = [one for one in caplog.messages if "EXIF" in one]
    assert told.startswith(f"{A}.jpg has an EXIF orientation (6), which is ignored: boxes must")
    applied = replace(config, output_dir=str(images_dir / "upright"), exif_policy="apply")
    assert "EXIF" not in "\n".join(cache_features(applied).lines())


def test_a_category_tree_is_kept_by_label(images_dir: Path) -> None:
    names = {1: "egg", 7: "toy egg", 3: "star", 9: "small egg"}
    content = {
        "images": [{"id": 1, "file_name": f"{A}.jpg", "height": 30, "width": 50}],
        "annotations": [{"image_id": 1, "category_id": 7, "bbox": [1, 2, 20, 10]}],
        "categories": [
            {"id": number, "name": name, "cat_info": []} for number, name in names.items()
        ],
    }
    (images_dir / "v3det.json").write_text(json.dumps(content))
    tree = {
        "categoryid2treeid": {str(number): f"n{number}" for number in (*names, 4)},
        "ancestor2descendant": {"n1": ["n7", "n9", "n4"], "n7": ["n9"]},
    }
    (images_dir / "tree.json").write_text(json.dumps(tree))
    config = AnnotationsConfig(
        format="v3det",
        path=str(images_dir / "v3det.json"),
        images_dir=str(images_dir),
        tree_path=str(images_dir / "tree.json"),
    )
    with cached(config, images_dir) as cache:
        # Labels count the categories 1, 3, 7, 9; category 4 is in the tree alone.
        assert cache.manifest.vocabulary.names == ("egg", "star", "toy egg", "small egg")
        assert read_category_tree(cache.path) == ((2, 3), (), (3,), ())


def test_a_cache_without_a_category_tree_says_so(images_dir: Path) -> None:
    (images_dir / "own.csv").write_text(f"image,x1,y1,x2,y2,label\n{A}.jpg,5,5,20,20,a")
    config = AnnotationsConfig(
        format="csv", path=str(images_dir / "own.csv"), images_dir=str(images_dir)
    )
    with cached(config, images_dir) as cache:
        assert read_category_tree(cache.path) is None
