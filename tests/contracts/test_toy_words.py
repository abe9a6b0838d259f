"""The docs list the words that the shipped CLIP knows, and README's classes are made of them."""

import json
import re
from pathlib import Path

from regionspot.backbones import WordTokenizer, load_clip
from regionspot.cli.quickstart import REPORTED_WORLD_SEED
from regionspot.toy import generate_world

ROOT = Path(__file__).parents[2]


def test_the_docs_list_the_words_that_the_tiny_clip_knows() -> None:
    tokenizer = load_clip("tiny", "shipped").tokenizer
    assert isinstance(tokenizer, WordTokenizer)
    text = (ROOT / "docs" / "toy_world.md").read_text(encoding="utf-8")
    section = text.split("## Words\n")[1].split("\n**")[0]
    assert tuple(re.findall(r"`([^`]+)`", section)) == tokenizer.words
    assert f"trained on {len(tokenizer.words)} words" in section


def test_readmes_example_names_its_regions_by_their_true_classes(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```text\n(Regions\(2 .*?)```", readme, re.DOTALL)
    named = re.findall(r"  (.+) \d+% at \((\d+), (\d+), (\d+), (\d+)\)", shown)
    generate_world(tmp_path, seed=REPORTED_WORLD_SEED, num_val=1, num_train=1)
    world = json.loads((tmp_path / "val.json").read_text(encoding="utf-8"))
    assert world["images"][0]["coco_url"].endswith("/val/000000900000.jpg")
    names = {one["id"]: one["name"] for one in world["categories"]}
    true = set()
    for one in world["annotations"]:
        x, y, width, height = one["bbox"]
        true.add((names[one["category_id"]], x, y, x + width, y + height))
    assert len(named) == 2
    assert {(name, *map(float, box)) for name, *box in named} <= true
