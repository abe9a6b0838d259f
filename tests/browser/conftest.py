"""These tests need Chromium and playwright and fail without them; ``make test-browser`` runs them.

The report is that of an evaluation of the toy world: genuine images, masks, methods and figures.
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.heads import random_head
from regionspot.backbones import ModelsConfig, load_frozen_models
from regionspot.cli.main import main
from regionspot.model import save_trained_head
from regionspot.toy import generate_world

CONFIGS = Path(__file__).parents[2] / "configs" / "toy"
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium of the system."""
    found = next((path for name in _BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.fail(
            f"no {', '.join(_BROWSERS)} on the PATH. Install Chromium, for instance by"
            " apt-get install chromium."
        )
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.fail("playwright is not installed: type make test-browser, which installs it.")
    # Chromium refuses to run as root with its sandbox; it opens only our own page.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=options)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of an evaluation of a random head and two methods."""
    folder = tmp_path_factory.mktemp("browser")
    world, cache, output = folder / "world", folder / "cache", folder / "evaluation"
    generate_world(world, seed=3, num_val=10, num_train=1)
    main(
        [
            *("cache", "--config", str(CONFIGS / "cache.yaml"), "--output_dir", str(cache)),
            *("--annotations.path", str(world / "val.json")),
            *("--annotations.images_dir", str(world), "--masks", "true"),
        ]
    )
    models = load_frozen_models(ModelsConfig(preset="toy"))
    save_trained_head(folder / "head", random_head(models, seed=2, normalize_inputs=True))
    main(
        [
            *("evaluate", "--config", str(CONFIGS / "eval.yaml"), "--cache", str(cache)),
            *("--annotations", str(world / "val.json"), "--images_dir", str(world)),
            *("--checkpoints", json.dumps([f"fusion_head={folder / 'head'}"])),
            *("--methods", "[pooled_patches, clip_box_crop]", "--num_pictures", "4"),
            *("--class_groups", str(CONFIGS / "class_groups.json")),
            *("--output_dir", str(output)),
        ]
    )
    return output


@pytest.fixture(scope="session")
def report(evaluation: Path) -> Path:
    """The report of that evaluation."""
    return evaluation / "report.html"


@pytest.fixture(scope="session")
def comparison(evaluation: Path) -> Path:
    """A comparison of the evaluation with a copy of it that used another protocol."""
    other = evaluation.with_name("other")
    shutil.copytree(evaluation, other)
    metrics = json.loads((other / "metrics.json").read_text())
    (other / "metrics.json").write_text(json.dumps(metrics | {"protocol": "top1"}))
    page = evaluation.with_name("comparison.html")
    main(["report", str(evaluation), str(other), "--output", str(page)])
    return page
