"""``train.py`` from caches to a trained head, in this process and on the CPU."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from helpers.training import column, training_config
from regionspot.cache import FeatureCache
from regionspot.cli.train import train
from regionspot.data import CachedRegions
from regionspot.model import TrainedHead, load_trained_head

MakeCache = Callable[..., Path]
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _few_threads() -> None:
    torch.set_num_threads(1)


def write_config(folder: Path, train: list[Path], *, max_steps: int = 20) -> Path:
    config = training_config(folder / "run", train, max_steps=max_steps, save_every=5)
    config["trainer"] |= {
        "check_val_every_n_epoch": None,
        "val_check_interval": 10,
        "num_sanity_val_steps": 0,
    }
    config["model"]["schedule"]["milestones_images"] = [60]
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def test_training_mixes_caches_of_all_codecs(tmp_path: Path, make_cache: MakeCache) -> None:
    caches = [make_cache(codec, codec=codec) for codec in ("float16", "bfloat16", "int8")]
    train(["fit", "--config", str(write_config(tmp_path, caches))])
    trained = load_trained_head(tmp_path / "run" / "head")
    # The same numbers three times, stored in three ways.
    exact, *others = [logits(trained, cache) for cache in caches]
    for other in others:
        assert not other.equal(exact)
        torch.testing.assert_close(other, exact, atol=0.3, rtol=0)  # logits are up to 10 here
    with pytest.raises(AssertionError):
        torch.testing.assert_close(exact.roll(1, dims=0), exact, atol=0.3, rtol=0)


def logits(trained: TrainedHead, cache_dir: Path) -> torch.Tensor:
    batch = next(iter(CachedRegions([cache_dir], batch_size=12).train_dataloader()))
    bank = torch.from_numpy(FeatureCache.open(cache_dir).text_bank("ensemble81").copy())
    with torch.no_grad():
        embeddings = trained.head(batch.position_tokens, batch.features(), batch.region_mask)
        return trained.classifier(embeddings, bank)


def write_lvis_annotations(path: Path, cache_dir: Path) -> None:
    """Write the LVIS file that a cache could have been made from."""
    cache = FeatureCache.open(cache_dir)
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for index in range(len(cache)):
        sample = cache.sample(index)
        height, width = sample.size_hw
        images.append(
            {
                "id": sample.image_id,
                "height": height,
                "width": width,
                "coco_url": f"http://x/val/{sample.key}.jpg",
                "neg_category_ids": [],
                "not_exhaustive_category_ids": [],
            }
        )
        for label, (x1, y1, x2, y2) in zip(sample.labels, sample.boxes_xyxy.tolist(), strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": sample.image_id,
                    "category_id": int(label) + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "segmentation": [[x1, y1, x2, y1, x2, y2]],
                }
            )
    categories = [
        {
            "id": number,
            "name": name,
            "synset": f"{name}.n.01",
            "synonyms": [name],
            "def": name,
            "frequency": frequency,
            "image_count": 5,
            "instance_count": 5,
        }
        for number, (name, frequency) in enumerate(
            zip(cache.manifest.vocabulary, "rcf", strict=True), start=1
        )
    ]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content), encoding="utf-8")


def test_a_short_fit_learns_and_leaves_a_head_that_loads(
    make_cache: MakeCache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    caches = [make_cache("a"), make_cache("b", names=("kiwi", "lemon"), empty={0}, seed=1)]
    train(["fit", "--config", str(write_config(tmp_path, caches))])

    run = tmp_path / "run"
    losses = column(run, "train/loss")
    assert len(losses) == 20
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    assert column(run, "train/lr")[:3] == pytest.approx([0.0001, 0.00505, 0.01])
    assert column(run, "train/lr")[-1] == pytest.approx(0.001)
    assert len(column(run, "train/grad_norm")) == 20
    assert min(column(run, "train/regions_per_s")) > 0
    assert min(column(run, "train/images_per_s")) > 0
    assert list((run / "tensorboard").rglob("events.*"))
    saved = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    assert saved["data"]["train"] == [str(path) for path in caches]
    # Every batch is of one of the two, and the log is written after each.
    by_cache = {loss for name in "ab" for loss in column(run, f"train/loss/{name}")}
    assert sorted(by_cache) == pytest.approx(sorted(losses), rel=1e-6)
    # Ten batches of each: 40 images of the one, which has 12; 3 x (4 + 4 + 3) + 4 of the other.
    assert column(run, "train/images")[-1] == 77
    last_line = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(
        r"20 steps in \S+ s: 77 images \(\d+ images/s, \S+% of the time waiting for data\)\."
        r" \S+ CPU hours, \S+ with validation \(1 x CPU, .+\)\. Loss \S+\."
        r" The trained head is in .*head",
        last_line,
    )
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    assert (summary["steps"], summary["images"], summary["num_devices"]) == (20, 77, 1)
    assert 0 < summary["training_device_hours"] == pytest.approx(summary["training_s"] / 3600)

    trained = load_trained_head(run / "head")
    assert trained.card.vocabulary == ("lemon", "tennis ball", "sea egg", "kiwi")
    assert trained.card.fingerprint["clip_model"] == "tiny"
    assert trained.card.training["steps"] == 20
    assert trained.card.training["caches"] == ["a", "b"]
    assert trained.card.scale != 10.0
    checkpoint = run / "checkpoints" / "last.ckpt"
    names = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert {name.split(".")[0] for name in names} == {"head", "classifier"}
    assert logits(load_trained_head(checkpoint), caches[0]).equal(logits(trained, caches[0]))


def test_a_resumed_fit_ends_where_an_uninterrupted_one_ends(
    make_cache: MakeCache, tmp_path: Path
) -> None:
    cache = make_cache()
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    whole = write_config(tmp_path / "one", [cache])
    train(["fit", "--config", str(whole)])
    broken = write_config(tmp_path / "two", [cache])
    # 5 and 10 steps end in the middle of an epoch of 3 batches, 15 at the end of one.
    train(["fit", "--config", str(broken), "--trainer.max_steps", "5"])
    for max_steps in (10, 15, 20):
        last = tmp_path / "two" / "run" / "checkpoints" / "last.ckpt"
        kept = last.rename(tmp_path / f"{max_steps}.ckpt")
        train(
            [
                *("fit", "--config", str(broken), "--ckpt_path", str(kept)),
                *("--trainer.max_steps", str(max_steps)),
                *("--trainer.default_root_dir", str(tmp_path / "two" / "run")),
            ]
        )
    wanted = load_trained_head(tmp_path / "one" / "run" / "head").head.state_dict()
    found = load_trained_head(tmp_path / "two" / "run" / "head").head.state_dict()
    for name, tensor in wanted.items():
        assert tensor.equal(found[name]), name


def test_the_order_is_set_on_the_command_line(
    make_cache: MakeCache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caches = [make_cache("a", num_images=20), make_cache("b", num_images=11, seed=1)]
    config = write_config(tmp_path, caches, max_steps=9)
    with caplog.at_level("INFO"):
        train(
            [
                *("fit", "--config", str(config), "--data.ratios", "by_size"),
                *("--data.batch_size", "[4, 3]", "--data.shuffle_window", "2"),
                *("--data.repeat_threshold", "0.01"),
            ]
        )
    assert "An epoch has 9 batches, of each cache [5, 4]" in caplog.text
    assert "0 of 20 images are drawn more often than once" in caplog.text
    card = load_trained_head(tmp_path / "run" / "head").card
    assert card.training["batch_sizes"] == [4, 3]


def test_validation_logs_top1_and_ap(make_cache: MakeCache, tmp_path: Path) -> None:
    cache = make_cache(num_images=20)
    annotations = tmp_path / "val.json"
    write_lvis_annotations(annotations, cache)
    config = write_config(tmp_path, [cache], max_steps=40)
    options = [
        *("--config", str(config), "--data.val", str(cache)),
        *("--val_annotations", str(annotations), "--trainer.callbacks+=ModelCheckpoint"),
        *("--trainer.callbacks.filename", "best", "--trainer.callbacks.monitor", "val/AP"),
        *("--trainer.callbacks.mode", "max"),
    ]
    train(["fit", *options])
    run = tmp_path / "run"
    accuracies, precisions = column(run, "val/top1"), column(run, "val/AP")
    assert len(accuracies) == len(precisions) == 4
    assert accuracies[-1] > 0.9  # the training images: the head can know them by heart
    assert precisions[-1] > 80
    assert (run / "checkpoints" / "best.ckpt").exists()

    train(["validate", *options, "--ckpt_path", "last"])
    assert column(run, "val/AP") == pytest.approx(precisions[-1:])
    train(["validate", *options, "--ckpt_path", "best"])
    assert column(run, "val/AP") == pytest.approx([max(precisions)])


def test_stage_two_starts_from_the_weights_of_stage_one(
    make_cache: MakeCache, tmp_path: Path
) -> None:
    cache = make_cache()
    config = write_config(tmp_path, [cache], max_steps=5)
    train(["fit", "--config", str(config)])
    first = load_trained_head(tmp_path / "run" / "head")
    train(
        [
            *("fit", "--config", str(config), "--model.init_from", str(tmp_path / "run" / "head")),
            *("--trainer.default_root_dir", str(tmp_path / "stage2")),
            # Two steps of two batches of 4 images.
            *("--trainer.max_steps", "-1", "--max_images", "10"),
            *("--trainer.accumulate_grad_batches", "2"),
            *("--model.optimizer.lr", "1e-12", "--model.head.dropout", "0.1"),
        ]
    )
    second = load_trained_head(tmp_path / "stage2" / "head")
    assert second.card.training["init_from"] == str(tmp_path / "run" / "head")
    assert second.card.training["steps"] == 2
    torch.testing.assert_close(logits(second, cache), logits(first, cache))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data.train", '["nowhere"]'], "nowhere is no feature cache"),
        (["--data.batch_size", "0"], "data.batch_size is 0"),
        (["--model.init_from", "nowhere/head"], "no trained head at nowhere"),
        (["--max_images", "80"], "max_images is 80 and trainer.max_steps is 20"),
        (["--model.head.num_heads", "3"], "does not divide feature_dim 16"),
        (["--trainer.callbacks.monitor", "val/AP"], "Give both, or remove `monitor`"),
    ],
)
def test_mistakes_of_the_user_end_with_a_message_and_code_2(
    make_cache: MakeCache,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    config = write_config(tmp_path, [make_cache()])
    with pytest.raises(SystemExit) as exit_info:
        train(["fit", "--config", str(config), *words])
    assert exit_info.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert "Traceback" not in error


def test_a_checkpoint_that_is_not_there_is_told(
    make_cache: MakeCache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, [make_cache()])
    with pytest.raises(SystemExit) as exit_info:
        train(["fit", "--config", str(config), "--ckpt_path", str(tmp_path / "nope.ckpt")])
    assert exit_info.value.code == 2
    error = capsys.readouterr().err
    assert f"{tmp_path / 'nope.ckpt'} is no file. {tmp_path / 'run'} has no checkpoints" in error


def test_a_mistyped_option_is_named(
    make_cache: MakeCache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, [make_cache()])
    with pytest.raises(SystemExit) as exit_info:
        train(["fit", "--config", str(config), "--model.head.num_bloks", "3"])
    assert exit_info.value.code == 2
    assert "num_bloks" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_train_and_validate_together(make_cache: MakeCache, tmp_path: Path) -> None:
    # 13 images in batches of 4: the last one leaves the second process with nothing to validate.
    cache = make_cache(num_images=13)
    annotations = tmp_path / "val.json"
    write_lvis_annotations(annotations, cache)
    config = write_config(tmp_path, [cache], max_steps=10)
    command = [
        *(sys.executable, str(ROOT / "train.py"), "fit", "--config", str(config)),
        *("--data.val", str(cache), "--val_annotations", str(annotations)),
        # The weights stay as they are, so that both must come to the same figures.
        *("--model.optimizer.lr", "1e-12", "--model.classifier.trainable", "false"),
        *("--trainer.strategy", "ddp", "--trainer.devices"),
    ]
    figures = []
    for devices in ("1", "2"):
        run = tmp_path / f"devices{devices}"
        words = [*command, devices, "--trainer.default_root_dir", str(run)]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("10 steps in") == 1
        assert load_trained_head(run / "head").card.training["steps"] == 10
        figures.append((column(run, "val/AP"), column(run, "val/top1")))
    assert figures[1][0] == pytest.approx(figures[0][0])
    assert figures[1][1] == pytest.approx(figures[0][1])
