"""Training runs on a machine where neither SAM nor CLIP, nor any scoring package, is installed."""

import subprocess
import sys

BLOCKED = (
    *("segment_anything", "open_clip", "torchvision", "timm", "PIL", "cv2", "simplejpeg"),
    *("hotcoco", "lvis", "pycocotools", "matplotlib", "s3fs"),
)

SCRIPT = f"""
import importlib.abc, importlib, pkgutil, sys

# These import some of the blocked packages wherever they are installed.
import lightning.pytorch, lightning.pytorch.cli, lightning.pytorch.loggers, torchmetrics

for name in list(sys.modules):
    if name.split(".")[0] in {BLOCKED!r}:
        del sys.modules[name]

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(f"{{name}} is blocked by the test", name=name)

sys.meta_path.insert(0, Blocker())
for package in ("core", "storage", "cache", "model", "data", "training"):
    module = importlib.import_module(f"regionspot.{{package}}")
    for info in pkgutil.walk_packages(module.__path__, module.__name__ + "."):
        importlib.import_module(info.name)
importlib.import_module("regionspot.cli.train")
print("imported")
"""


def test_everything_that_training_needs_imports_without_the_extras() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "imported"
