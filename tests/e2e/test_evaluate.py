"""``evaluate.py`` on a small toy world, from genuine towers and a genuine cache to the report."""

import csv
import json
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as mask_utils

from helpers.heads import random_head
from regionspot.annotations import AnnotatedImages, ImageRecord, read_annotations
from regionspot.backbones import (
    BoxPrompts,
    FrozenModels,
    ModelsConfig,
    load_frozen_models,
    rated_tokens,
)
from regionspot.cache import (
    CachedSample,
    FeatureCache,
    Manifest,
    Plan,
    QuarantinedImage,
    TextBankStore,
    build_index,
    read_quarantine,
    text_banks_path,
    write_manifest,
    write_shard,
)
from regionspot.cli.evaluate import evaluate
from regionspot.core.files import folder_lock
from regionspot.inference import load_image
from regionspot.model import (
    save_trained_head,
)
from regionspot.scoring import Predictions
from regionspot.scoring.lvis_reference import reference_lvis_figures
from regionspot.toy import generate_world

NUM_IMAGES, NUM_QUARANTINED = 8, 1
GROUPS = Path(__file__).parents[2] / "configs" / "toy" / "class_groups.json"
NUM_SEEN = 60
"""Classes that the head says it was trained on, of 164."""
METHODS = ("fusion_head", "clip_box_crop", "clip_mask_crop", "grey_outside_mask", "pooled_patches")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where everything of a small run lies."""

    world: Path
    cache: Path
    head: Path
    options: tuple[str, ...]


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """A world of eight images, of which the cache had to leave out the last, and a random head."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("evaluate")
    world, cache, head = folder / "world", folder / "cache", folder / "run"
    generate_world(world, seed=11, num_val=NUM_IMAGES, num_train=1)
    models = load_frozen_models(ModelsConfig(preset="toy"))
    images = read_annotations("lvis", world / "val.json", world)
    write_cache(cache, images, models)
    trained = random_head(models, seed=2, normalize_inputs=True)
    seen = images.vocabulary.names[:NUM_SEEN]
    card = replace(trained.card, training={"steps": 1234, "caches": ["toy365"]}, seen_classes=seen)
    save_trained_head(head / "head", replace(trained, card=card))
    options = (
        *("--cache", str(cache), "--annotations", str(world / "val.json")),
        *("--checkpoints", f"[{head}]", "--templates", "none", "--device", "cpu"),
    )
    return Setting(world=world, cache=cache, head=head, options=options)


def write_cache(folder: Path, images: AnnotatedImages, models: FrozenModels) -> None:
    keys = [record.key for record in images.records]
    manifest = Manifest(
        name="toy val",
        fingerprint=models.fingerprint(),
        annotation_sha256=images.annotation_sha256,
        annotation_format="lvis",
        plan=Plan.from_keys(keys, images_per_shard=len(keys)),
        vocabulary=images.vocabulary,
        category_ids=images.category_ids,
    )
    write_manifest(folder, manifest)
    *kept, lost = images.records
    quarantined = QuarantinedImage(
        key=lost.key, image_id=lost.image_id, file_name=lost.file_name, reason="truncated file"
    )
    assert images.images_dir is not None
    images_dir = images.images_dir
    samples = (sample_of(record, images_dir, models) for record in kept)
    write_shard(folder, 0, samples, [quarantined])
    build_index(folder)
    bank = models.encoder.text_bank(images.vocabulary.names, "none").numpy()
    store = TextBankStore(text_banks_path(folder))
    store.put(images.vocabulary, bank, templates="none", clip_sha256=models.clip_sha256)


@torch.no_grad()
def sample_of(record: ImageRecord, images_dir: Path, models: FrozenModels) -> CachedSample:
    pixels = load_image(images_dir / record.file_name)
    embedding = models.localizer.embed(models.localizer.preprocess(pixels)[None])
    tokens, ious = rated_tokens(
        models.localizer, embedding, BoxPrompts(boxes_xyxy=record.boxes_xyxy), record.size_hw
    )
    features = models.encoder.features(models.encoder.preprocess(pixels)[None])[0]
    return CachedSample(
        key=record.key,
        image_id=record.image_id,
        size_hw=record.size_hw,
        boxes_xyxy=record.boxes_xyxy,
        labels=record.labels,
        box_scores=np.ones(len(record.labels), np.float32),
        position_tokens=tokens.numpy().astype(np.float16),
        feature_map=features.numpy().astype(np.float16),
        predicted_iou=ious.numpy(),
        file_name=record.file_name,
    )


@pytest.fixture(scope="module")
def finished(setting: Setting, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of an evaluation of all methods, with everything that the report can show."""
    output = tmp_path_factory.mktemp("output")
    log = output / "stage1" / "metrics.csv"
    log.parent.mkdir()
    log.write_text("epoch,step,train/loss,val/AP\n0,0,2.0,\n0,9,1.0,\n0,9,,12.5\n")
    step = {"name": "train", "command": "python train.py fit --seed 3", "seconds": 61.5}
    old = {"name": "evaluate", "command": "regionspot evaluate --old", "seconds": 5.0}
    (output / "steps.json").write_text(json.dumps([step, old]))
    evaluate(
        [
            *setting.options,
            *("--methods", f"[{','.join(METHODS[1:])}]", "--models.preset", "toy"),
            *("--images_dir", str(setting.world), "--output_dir", str(output)),
            *("--training_dirs", f"[{output / 'stage1'}]", "--steps", str(output / "steps.json")),
            *("--title", "A <small> run", "--num_pictures", "3", "--notes", "[Mind the gap.]"),
            *("--predictions", "all", "--class_groups", str(GROUPS)),
        ]
    )
    return output


def test_figures_are_the_references_on_the_predictions_written(
    setting: Setting, finished: Path
) -> None:
    metrics = json.loads((finished / "metrics.json").read_text())
    assert tuple(metrics["methods"]) == METHODS
    for method, figures in metrics["methods"].items():
        name = "predictions.json" if method == METHODS[0] else f"predictions_{method}.json"
        predictions = Predictions.read_lvis_json(finished / name)
        theirs = reference_lvis_figures(setting.world / "val.json", predictions)
        for figure in ("AP", "APr", "APc", "APf", "AP50"):
            wanted = None if theirs[figure] == -1 else 100 * theirs[figure]
            assert figures[figure] == wanted, (method, figure)


def test_the_crops_of_the_shipped_towers_name_better_than_chance(finished: Path) -> None:
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["methods"]["pooled_patches"]["top1_accuracy"] > 100 / 164 * 3


def test_images_that_the_cache_left_out_are_counted_and_told(finished: Path) -> None:
    data = json.loads((finished / "metrics.json").read_text())["data"]
    assert data["num_images"] == NUM_IMAGES
    assert data["num_missing_images"] == NUM_QUARANTINED
    assert data["num_cached_regions"] < data["num_regions"]
    report = (finished / "report.html").read_text()
    assert "could not be read when the cache was made: 1 " in report
    assert "truncated file (1)" in report


def test_the_report_holds_everything_and_needs_nothing(finished: Path) -> None:
    report = (finished / "report.html").read_text()
    assert "A &lt;small&gt; run" in report
    assert "Mind the gap." in report
    assert "python train.py fit --seed 3" in report
    assert "1 min" not in report.split("61.5 s")[0]
    assert "--old" not in report
    assert "1,234 steps on toy365" in report
    for method in METHODS:
        assert f"<b>{method}</b>" in report
    # bars, loss, AP; precision, reliability; three sampled, two with mistakes; a scale for each of
    # three images with attention, and a map for each of their regions
    num_maps = report.count("of the attention inside the box")
    assert 3 <= num_maps <= 3 * 6
    pictures = re.findall(r'src="data:image/(?:png|jpeg);base64,', report)
    assert len(pictures) == 3 + 2 + 3 + 2 + 3 + num_maps
    assert report.count('type="radio"') == (3 + 2) * len(METHODS), "one image, names by all methods"
    assert not re.search(r'(?:src|href)="(?!data:|#)', report)
    assert report.count("<script") == 1, "sorting and filtering; everything is there without it"


def test_a_picture_of_named_regions_lists_names_of_images_at_even_distances(
    setting: Setting, finished: Path
) -> None:
    content = json.loads((setting.world / "val.json").read_text())
    true_names: dict[int, list[str]] = {}
    names = {one["id"]: one["name"] for one in content["categories"]}
    for row in content["annotations"]:
        true_names.setdefault(row["image_id"], []).append(names[row["category_id"]])
    image_ids = [image["id"] for image in content["images"]][: NUM_IMAGES - NUM_QUARANTINED]
    with Image.open(finished / "named_regions.jpg") as picture:
        words = picture.info["comment"].decode().splitlines()
    titles = [line.split(":")[0] for line in words if line.startswith("Image ")]
    assert titles == [f"Image {image_ids[position]}" for position in (0, 3, 6)]
    assert len(words) == 3 + sum(len(true_names[image_ids[position]]) for position in (0, 3, 6))
    assert words[1:] == [
        line for line in words[1:] if re.match(r"Image \d+: |\d+[\u2713\u2717] ", line)
    ]


def test_a_table_of_ap_by_category_is_written(finished: Path) -> None:
    lines = (finished / "per_category.csv").read_text().splitlines()
    assert lines[0] == "category_id,name,frequency,num_annotations," + ",".join(METHODS)
    assert len(lines) == 1 + 164


def test_groups_of_classes_are_means_over_the_table_of_classes(finished: Path) -> None:
    with (finished / "per_category.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    metrics = json.loads((finished / "metrics.json").read_text())
    groups = {name: set(classes) for name, classes in metrics["class_groups"].items()}
    assert len(groups["unseen"]) == len(rows) - NUM_SEEN
    assert {len(name.split()) for name in groups["context"]} == {2}
    report = (finished / "report.html").read_text()
    for method in METHODS:
        for name, classes in groups.items():
            wanted = [float(row[method]) for row in rows if row["name"] in classes and row[method]]
            found = metrics["methods"][method]["class_groups"][name]
            assert found == pytest.approx(sum(wanted) / len(wanted))
            assert f'<td data-name="{method}">{found:.1f}</td>' in report


def test_masks_in_the_cache_are_drawn_as_outlines(setting: Setting, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    with FeatureCache.open(setting.cache) as cache:
        samples = [cache.sample(position) for position in range(len(cache))]
        write_manifest(folder, replace(cache.manifest, masks=True))
        lost = read_quarantine(setting.cache)
        write_shard(folder, 0, [with_box_masks(sample) for sample in samples], lost)
    build_index(folder)
    shutil.copy(text_banks_path(setting.cache), folder)
    options = ["--images_dir", str(setting.world), "--num_pictures", "1", "--metric", "coco"]
    cut = setting.options.index("--annotations")
    evaluate(
        [
            *setting.options[:cut],
            *setting.options[cut + 2 :],
            *("--cache", str(folder), "--output_dir", str(tmp_path / "out"), *options),
        ]
    )
    report = (tmp_path / "out" / "report.html").read_text()
    shown = re.findall(r"with (\d+) numbered regions", report)
    assert len(shown) == 2, "a sampled image and one with a mistake, found by their names"
    assert report.count('class="outline"') == sum(map(int, shown))


def with_box_masks(sample: CachedSample) -> CachedSample:
    """Give each region a mask: the whole pixels of its box."""
    masks = []
    for x1, y1, x2, y2 in sample.boxes_xyxy.astype(int).tolist():
        mask = np.zeros(sample.size_hw, np.uint8, order="F")
        mask[y1:y2, x1:x2] = 1
        masks.append(mask_utils.encode(mask)["counts"])
    return replace(sample, masks_rle=tuple(masks))


def test_the_command_prints_the_protocol_and_one_table(
    setting: Setting, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate([*setting.options, "--protocol", "top1", "--output_dir", str(tmp_path / "top1")])
    printed = capsys.readouterr().out
    assert "Top 1: every box is predicted as its one most likely class" in printed
    assert re.search(r"method +AP +APr +APc +APf +AP50 .*\nfusion_head +[\d.]+", printed)
    metrics = json.loads((tmp_path / "top1" / "metrics.json").read_text())
    assert metrics["protocol"] == "top1"
    predictions = Predictions.read_lvis_json(tmp_path / "top1" / "predictions.json")
    assert len(predictions) == metrics["data"]["num_cached_regions"]
    assert "folder of the images was not given" in (tmp_path / "top1" / "report.html").read_text()
    assert not (tmp_path / "top1" / "named_regions.jpg").exists()


def test_several_heads_are_compared_by_name(setting: Setting, tmp_path: Path) -> None:
    heads = f"[one={setting.head},two={setting.head / 'head'}]"
    evaluate([*setting.options, "--checkpoints", heads, "--output_dir", str(tmp_path)])
    methods = json.loads((tmp_path / "metrics.json").read_text())["methods"]
    assert list(methods) == ["one", "two"]
    assert methods["one"] == methods["two"]
    assert (tmp_path / "predictions.json").is_file()
    assert not (tmp_path / "predictions_two.json").exists()


def test_a_cache_of_some_images_is_scored_on_these_and_says_so(
    setting: Setting, tmp_path: Path
) -> None:
    content = json.loads((setting.world / "val.json").read_text())
    content["images"].append({**content["images"][0], "id": 424242})
    larger = tmp_path / "larger.json"
    larger.write_text(json.dumps(content))
    evaluate([*setting.options, "--annotations", str(larger), "--output_dir", str(tmp_path)])
    data = json.loads((tmp_path / "metrics.json").read_text())["data"]
    assert data["is_subset"]
    assert data["num_images"] == NUM_IMAGES
    assert "A subset" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cache", "nowhere"], "is no feature cache"),
        (["--annotations", "nowhere.json"], "no annotation file at nowhere.json"),
        (["--checkpoints", "[nowhere]"], "no trained head at nowhere"),
        (["--templates", "single"], "no text bank"),
        (["--steps", "nowhere.json"], "no file of steps"),
        (["--training_dirs", "[nowhere]"], "no metrics.csv below nowhere"),
        (["--methods", "[magic]", "--models.preset", "toy", "--images_dir", "x"], "clip_box_crop"),
        (["--methods", "[clip_box_crop]"], "work on pixels"),
        (
            [
                *("--methods", "[clip_box_crop]", "--images_dir", "WORLD"),
                *("--models.preset", "toy", "--models.token_site", "prompt_encoder"),
            ],
            "token_site: found 'transformer', wanted 'prompt_encoder'",
        ),
        (["--images_dir", "nowhere"], "nowhere"),
        (["--checkpoints", "[]"], "nothing to evaluate"),
        (["--annotations", "null"], "Set --annotations to the LVIS file, or --metric coco"),
        (["--metric", "voc"], "lvis"),
        (["--scorer", "mine"], "reference"),
        (["--results", "[results.json]"], "--results holds 'results.json'; wanted name=path"),
        (["--class_groups", "nowhere.json"], "no file of class groups at nowhere.json"),
        (["--results", "[a=nowhere.json]"], "no results file at nowhere.json"),
        (["--checkpoints", "[a=x,a=y]"], "a name twice"),
    ],
)
def test_mistakes_exit_with_2_and_one_message(
    setting: Setting,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        chosen = [str(setting.world) if option == "WORLD" else option for option in options]
        evaluate([*setting.options, "--output_dir", str(tmp_path), *chosen])
    assert exit_info.value.code == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed


def test_results_of_others_stand_in_the_table_with_the_same_figures(
    setting: Setting, finished: Path, tmp_path: Path
) -> None:
    theirs = json.loads((finished / "predictions_pooled_patches.json").read_text())
    beyond = [{**theirs[0], "category_id": 1.0}]  # as tables of floats write ids
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps(theirs + beyond))
    evaluate(
        [
            *setting.options,
            *("--results", f"[theirs={path}]", "--output_dir", str(tmp_path), "--num_pictures"),
            *("0", "--scorer", "reference", "--retrieval", "true", "--class_groups", str(GROUPS)),
        ]
    )
    methods = json.loads((tmp_path / "metrics.json").read_text())["methods"]
    wanted = json.loads((finished / "metrics.json").read_text())["methods"]
    assert list(methods) == ["fusion_head", "theirs"]
    shown = {name: methods["fusion_head"][name] for name in wanted["fusion_head"]}
    assert shown == wanted["fusion_head"], "the reference agrees in every bit"
    assert 0 < methods["fusion_head"]["retrieval_mAP"] <= 100
    assert methods["theirs"]["retrieval_mAP"] is None
    assert methods["theirs"]["AP"] == pytest.approx(wanted["pooled_patches"]["AP"], abs=0.5)
    assert methods["theirs"]["top1_accuracy"] is None
    assert not (tmp_path / "predictions_theirs.json").exists(), "it is the user's own file"
    assert "with boxes of their own" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 987654321}, "names 1 images that"),
        ({"category_id": 987654}, "names 1 categories that"),
    ],
)
def test_results_of_other_data_are_refused(
    setting: Setting,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, int],
    message: str,
) -> None:
    row = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 0.5} | change
    content = json.loads((setting.world / "val.json").read_text())
    row["image_id"] = change.get("image_id", content["images"][0]["id"])
    path = tmp_path / "other.json"
    path.write_text(json.dumps([row]))
    results = ("--results", f"[other={path}]", "--output_dir", str(tmp_path))
    with pytest.raises(SystemExit):
        evaluate([*setting.options, *results])
    assert message in capsys.readouterr().err


def test_repeated_rows_of_results_are_reported(
    setting: Setting, finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = json.loads((finished / "predictions_pooled_patches.json").read_text())
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps([*theirs, *theirs[:3]]))
    results = ("--results", f"[theirs={path}]", "--output_dir", str(tmp_path))
    evaluate([*setting.options, "--checkpoints", "[]", *results])
    assert f"3 of {len(theirs) + 3} rows repeat an earlier one" in caplog.text


def test_an_lvis_cache_is_scored_by_coco_ap_if_asked(setting: Setting, tmp_path: Path) -> None:
    evaluate(
        [
            *setting.options,
            *("--annotations", "null", "--metric", "coco", "--output_dir", str(tmp_path)),
        ]
    )
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["metric"] == "coco"
    assert metrics["data"]["num_regions"] == metrics["data"]["num_cached_regions"]
    assert "scored by COCO AP" in (tmp_path / "report.html").read_text()


def test_annotations_of_another_data_set_are_refused(
    setting: Setting, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((setting.world / "val.json").read_text())
    del content["images"][0]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] in kept]
    other = tmp_path / "other.json"
    other.write_text(json.dumps(content))
    with pytest.raises(SystemExit):
        evaluate([*setting.options, "--annotations", str(other), "--output_dir", str(tmp_path)])
    assert "holds 1 images and 0 categories that" in capsys.readouterr().err


def test_a_second_evaluation_in_a_folder_is_refused(
    setting: Setting, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with folder_lock(tmp_path, advice=""), pytest.raises(SystemExit) as exit_info:
        evaluate([*setting.options, "--output_dir", str(tmp_path)])
    assert exit_info.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"another process is writing to {tmp_path}" in error
    assert "--output_dir" in error
    assert list(tmp_path.iterdir()) == []


def test_heads_of_other_models_are_refused(
    setting: Setting, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = json.loads((setting.head / "head" / "head.json").read_text())
    card["fingerprint"]["clip_model"] = "ViT-B-16-quickgelu"
    del card["sha256"], card["weights_sha256"]  # as of a head of before there were seals
    other = tmp_path / "head"
    other.mkdir()
    weights = (setting.head / "head" / "head.safetensors").read_bytes()
    (other / "head.safetensors").write_bytes(weights)
    (other / "head.json").write_text(json.dumps(card))
    with pytest.raises(SystemExit):
        evaluate([*setting.options, "--checkpoints", f"[{other}]", "--output_dir", str(tmp_path)])
    assert "clip_model: found 'tiny', wanted 'ViT-B-16-quickgelu'" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["list", "lines", "file"])
def test_a_file_of_image_ids_chooses_what_is_scored(
    setting: Setting, tmp_path: Path, form: str
) -> None:
    content = json.loads((setting.world / "val.json").read_text())
    content["images"] = content["images"][1:4]
    ids = [image["id"] for image in content["images"]]
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] in ids]
    fewer, path = tmp_path / "fewer.json", tmp_path / "ids"
    fewer.write_text(json.dumps(content))
    texts = {"list": json.dumps(ids), "lines": "\n".join(map(str, ids)), "file": fewer.read_text()}
    path.write_text(texts[form])
    evaluate(
        [
            *setting.options,
            *("--image_ids", str(path), "--images_dir", str(setting.world)),
            *("--output_dir", str(tmp_path / "out")),
        ]
    )
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    predictions = Predictions.read_lvis_json(tmp_path / "out" / "predictions.json")
    assert set(predictions.image_ids.tolist()) == set(ids)
    theirs = reference_lvis_figures(fewer, predictions)
    assert metrics["methods"]["fusion_head"]["AP"] == 100 * theirs["AP"]
    assert metrics["data"]["num_images"] == 3
    assert metrics["data"]["num_regions"] == len(content["annotations"])
    assert "3 of 3 images, at even distances" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "--image_ids lists 2 of 2 images that"),
        ('{"a": 1}', "is no file of image ids"),
        ("one two", "is no file of image ids"),
        ("[]", "holds no image id"),
    ],
)
def test_wrong_files_of_image_ids_are_refused(
    setting: Setting, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    path = tmp_path / "ids"
    path.write_text(text)
    with pytest.raises(SystemExit):
        evaluate(
            [*setting.options, "--image_ids", str(path), "--output_dir", str(tmp_path / "out")]
        )
    assert message in capsys.readouterr().err
