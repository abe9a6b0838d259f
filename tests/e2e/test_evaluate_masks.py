"""``evaluate.py --iou_type segm`` and ``--score_rule tap`` on caches that the commands made."""

import io
import json
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.format3 import unpack_format3
from helpers.heads import random_head
from regionspot.backbones import ModelsConfig, load_frozen_models
from regionspot.cache import FeatureCache
from regionspot.cli.cache import make_cache
from regionspot.cli.evaluate import evaluate
from regionspot.core.errors import AnnotationError, CacheMismatchError, ConfigError
from regionspot.evaluation import EvalConfig, run_evaluation
from regionspot.model import save_trained_head
from regionspot.scoring import Predictions
from regionspot.scoring.lvis_reference import reference_lvis_figures
from regionspot.toy import generate_world


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where everything of a small run lies."""

    world: Path
    with_masks: Path
    without_masks: Path
    head: Path

    def config(self, **options: Any) -> EvalConfig:
        return EvalConfig(
            **{
                "cache": str(self.with_masks),
                "annotations": str(self.world / "val.json"),
                "checkpoints": [str(self.head)],
                "templates": "none",
                "device": "cpu",
                "num_pictures": 0,
                **options,
            }
        )


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("masks")
    world = folder / "world"
    generate_world(world, seed=12, num_val=4, num_train=1)
    for name in ("true", "false"):
        make_cache(
            [
                *("--annotations.format", "lvis", "--annotations.path", str(world / "val.json")),
                *("--annotations.images_dir", str(world), "--output_dir", str(folder / name)),
                *("--models.preset", "toy", "--templates", "[none]", "--device", "cpu"),
                *("--masks", name),
            ]
        )
    models = load_frozen_models(ModelsConfig(preset="toy"))
    save_trained_head(folder / "head", random_head(models, seed=3, normalize_inputs=True))
    return Setting(
        world=world,
        with_masks=folder / "true",
        without_masks=folder / "false",
        head=folder / "head",
    )


@pytest.fixture(scope="module")
def finished(setting: Setting, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of mask AP of a cache with masks."""
    output = tmp_path_factory.mktemp("segm")
    run_evaluation(setting.config(iou_type="segm", output_dir=str(output)))
    return output


def read_metrics(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / "metrics.json").read_text())
    return found


def test_mask_ap_is_that_of_lvis_on_the_predictions_written(
    setting: Setting, finished: Path
) -> None:
    metrics = read_metrics(finished)
    assert metrics["iou_type"] == "segm"
    predictions = Predictions.read_lvis_json(finished / "predictions.json", iou_type="segm")
    theirs = reference_lvis_figures(setting.world / "val.json", predictions)
    figures = metrics["methods"]["fusion_head"]
    for name in ("AP", "APr", "APc", "APf", "AP50", "AP75", "APs", "APm", "APl"):
        assert figures[name] == (None if theirs[name] == -1 else 100 * theirs[name]), name
    assert figures["AP50"] > 0


@pytest.fixture(scope="module")
def tapped(setting: Setting, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of the same under TAP's rule, from a command line, with what it printed."""
    output = tmp_path_factory.mktemp("tap")
    with redirect_stdout(io.StringIO()) as printed:
        evaluate(
            [
                *("--cache", str(setting.with_masks), "--checkpoints", f"[{setting.head}]"),
                *("--annotations", str(setting.world / "val.json"), "--templates", "none"),
                *("--iou_type", "segm", "--score_rule", "tap", "--output_dir", str(output)),
            ]
        )
    (output / "printed.txt").write_text(printed.getvalue())
    return output


def test_the_table_and_the_report_name_mask_ap_and_the_rule(tapped: Path) -> None:
    printed, report = ((tapped / name).read_text() for name in ("printed.txt", "report.html"))
    assert "mask AP " in printed
    assert "mask APr" in report
    for text in (printed, report):
        assert "Score rule tap (Tokenize Anything)" in text
    assert read_metrics(tapped)["score_rule"] == "tap"


def scores_by_mask(output: Path) -> dict[tuple[int, int, bytes], float]:
    found = Predictions.read_lvis_json(output / "predictions.json", iou_type="segm")
    assert found.masks is not None
    return {
        (image_id, category_id, counts): score
        for image_id, category_id, counts, score in zip(
            found.image_ids.tolist(),
            found.category_ids.tolist(),
            found.masks.counts,
            found.scores.tolist(),
            strict=True,
        )
    }


def test_taps_scores_are_made_of_the_predicted_iou_in_the_cache(
    setting: Setting, finished: Path, tapped: Path
) -> None:
    quality = {}
    with FeatureCache.open(setting.with_masks) as cache:
        for position in range(len(cache)):
            sample = cache.sample(position)
            assert sample.predicted_iou is not None
            assert sample.masks_rle is not None
            assert len(set(sample.masks_rle)) == sample.num_regions
            for counts, iou in zip(sample.masks_rle, sample.predicted_iou.tolist(), strict=True):
                quality[sample.image_id, counts] = min(1.0, max(0.0, iou))
    plain, tap = scores_by_mask(finished), scores_by_mask(tapped)
    both = plain.keys() & tap.keys()
    assert len(both) > 50
    for image_id, category_id, counts in both:
        chance = plain[image_id, category_id, counts]
        wanted = chance * quality[image_id, counts]
        assert tap[image_id, category_id, counts] ** 2 == pytest.approx(wanted, rel=1e-6)


def test_masks_from_pixels_are_those_of_the_cache(
    setting: Setting, finished: Path, tmp_path: Path
) -> None:
    config = setting.config(
        cache=str(setting.without_masks),
        iou_type="segm",
        images_dir=str(setting.world),
        models=ModelsConfig(preset="toy"),
        output_dir=str(tmp_path),
    )
    run_evaluation(config)
    assert read_metrics(tmp_path)["methods"] == read_metrics(finished)["methods"]
    assert (tmp_path / "predictions.json").read_bytes() == (
        finished / "predictions.json"
    ).read_bytes()


def test_coco_mask_ap_of_a_results_file_is_that_of_the_method_that_wrote_it(
    setting: Setting, finished: Path, tmp_path: Path
) -> None:
    config = setting.config(
        iou_type="segm",
        metric="coco",
        results=[f"again={finished / 'predictions.json'}"],
        bootstrap=20,
        output_dir=str(tmp_path),
    )
    run_evaluation(config)
    methods = read_metrics(tmp_path)["methods"]
    assert methods["again"]["AP"] == methods["fusion_head"]["AP"] > 0
    again, first = methods["again"]["intervals"], methods["fusion_head"]["intervals"]
    assert again == {name: first[name] for name in ("AP", "AP50", "AP75")}
    assert "top1_accuracy" in first  # a results file has no probabilities to compute it from


def test_what_is_missing_is_said_before_anything_is_scored(
    setting: Setting, tmp_path: Path
) -> None:
    output = str(tmp_path / "none")
    with pytest.raises(ConfigError, match=r"holds none\. Run cache_features\.py again"):
        run_evaluation(
            setting.config(cache=str(setting.without_masks), iou_type="segm", output_dir=output)
        )
    with pytest.raises(ConfigError, match="Set --annotations to the LVIS or COCO file"):
        setting.config(iou_type="segm", annotations=None, output_dir=output)
    old = unpack_format3(tmp_path / "old")
    with pytest.raises(CacheMismatchError, match=rf"a new --output_dir and --reuse {old}"):
        run_evaluation(
            EvalConfig(
                cache=str(old),
                checkpoints=[str(setting.head)],
                metric="coco",
                score_rule="tap",
                output_dir=output,
            )
        )


def results_with(setting: Setting, finished: Path, path: Path, **changes: Any) -> Path:
    """Write the finished run's predictions beside the names of their categories, changed."""
    categories = json.loads((setting.world / "val.json").read_text())["categories"]
    content = {
        "results": json.loads((finished / "predictions.json").read_text()),
        "categories": [{"id": one["id"], "name": one["name"]} for one in categories],
        **changes,
    }
    path.write_text(json.dumps(content))
    return path


def test_results_that_name_their_categories_are_compared_with_the_data(
    setting: Setting, finished: Path, tmp_path: Path
) -> None:
    output = str(tmp_path / "out")
    path = results_with(setting, finished, tmp_path / "named.json")
    config = setting.config(
        checkpoints=[], results=[f"named={path}"], iou_type="segm", output_dir=output
    )
    run_evaluation(config)
    named = read_metrics(tmp_path / "out")["methods"]["named"]
    assert named["AP"] == read_metrics(finished)["methods"]["fusion_head"]["AP"]

    categories = json.loads(path.read_text())["categories"]
    first, second = categories[0]["name"], categories[1]["name"]
    categories[0]["name"], categories[1]["name"] = second, first
    results_with(setting, finished, path, categories=categories)
    message = (
        rf"2 categories .*category {categories[0]['id']} is '{second}' in the results and"
        rf" '{first}' in the ground truth, where '{second}' is {categories[1]['id']}"
    )
    with pytest.raises(AnnotationError, match=message):
        run_evaluation(config)


def test_masks_of_results_are_checked_before_they_are_scored(
    setting: Setting, finished: Path, tmp_path: Path
) -> None:
    rows = json.loads((finished / "predictions.json").read_text())[:3]
    height, width = rows[1]["segmentation"]["size"]
    other = {"size": [width + 1, 1], "counts": "0"}
    for mask, message in (
        (
            {"size": [height, width], "counts": "oooooooooooo"},
            "mask of entry 1, .* does not describe",
        ),
        ({**other, "counts": [0, width + 1]}, "not a compressed RLE"),
        ([[0, 0, 5, 0, 5, 5]], "not a compressed RLE"),
        ({"size": [2, 2], "counts": "04"}, "masks are not of the size of their image"),
    ):
        rows[1]["segmentation"] = mask
        path = tmp_path / "results.json"
        path.write_text(json.dumps(rows))
        with pytest.raises(AnnotationError, match=message):
            run_evaluation(
                setting.config(
                    results=[f"other={path}"], iou_type="segm", output_dir=str(tmp_path / "out")
                )
            )
