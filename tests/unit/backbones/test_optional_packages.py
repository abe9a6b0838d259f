"""Without the extra ``extract`` the package imports, and building a model says what to install."""

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
