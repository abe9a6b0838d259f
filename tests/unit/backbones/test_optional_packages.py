"""Without the extras the package imports, and building a model says what to install."""

import subprocess
import sys

SCRIPT = """
import importlib.abc, sys

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"segment_anything", "open_clip", "torchvision", "timm", "PIL"}:
            raise ModuleNotFoundError(f"no module {name}", name=name)

sys.meta_path.insert(0, Blocker())
import numpy as np
from regionspot.backbones import load_clip, load_sam, template_texts
from regionspot.backbones.pixels import resize_bilinear
from regionspot.core.errors import MissingExtraError

calls = [
    lambda: load_sam("tiny", "shipped"),
    lambda: load_sam("vit_b", "random"),
    lambda: load_clip("tiny", "shipped"),
    lambda: template_texts("ensemble81"),
    lambda: resize_bilinear(np.zeros((2, 2, 3), np.uint8), (4, 4)),
]
for call in calls:
    try:
        call()
    except MissingExtraError as error:
        assert 'pip install "regionspot[extract]"' in str(error), error
    else:
        raise SystemExit("a model was built without its library")
"""


def test_a_missing_extra_is_named_with_the_command_that_installs_it() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


SAM2_SCRIPT = """
import sys
import regionspot, regionspot.backbones, regionspot.inference, regionspot.extraction
from regionspot.core.errors import MissingExtraError

assert "transformers" not in sys.modules, "imported where nobody asked for SAM 2"
sys.modules["transformers"] = None
sys.modules["huggingface_hub"] = None
for weights in ("random", "facebook/sam2.1-hiera-tiny"):
    try:
        regionspot.backbones.load_sam2("sam2.1_hiera_tiny", weights)
    except MissingExtraError as error:
        assert 'pip install "regionspot[transformers]"' in str(error), error
    else:
        raise SystemExit("a SAM 2 was built without its library")
"""


def test_sam2_alone_needs_transformers() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SAM2_SCRIPT],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
