"""Answers as files to download: JSON, COCO and a picture."""

import json
import shutil
import tempfile
from collections import deque
from pathlib import Path
from typing import Any

from PIL import Image

from regionspot.inference import Regions

_NUM_KEPT = 100


class Downloads:
    """Writes the files of answers, and removes those of old ones, which gradio has copied.

    Args:
        folder: Where to write; the caller removes it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written: deque[Path] = deque()

    def write(self, regions: Regions, picture: Image.Image, *, file_name: str) -> list[str]:
        """Write the files of one answer.

        Args:
            regions: The regions.
            picture: The picture of them.
            file_name: Name of the photo, for the COCO file.

        Returns:
            The paths of the JSON file, the COCO file and the picture.
        """
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        self._written.append(folder)
        if len(self._written) > _NUM_KEPT:
            shutil.rmtree(self._written.popleft(), ignore_errors=True)
        paths = [folder / name for name in ("regions.json", "regions_coco.json", "regions.png")]
        _write_json(paths[0], regions.to_dict())
        _write_json(paths[1], regions.to_coco(file_name=file_name))
        picture.save(paths[2])
        return [str(path) for path in paths]


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
