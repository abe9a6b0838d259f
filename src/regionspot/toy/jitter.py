"""Moves the boxes of a data set, to see how much a head depends on exact boxes."""

import json
from pathlib import Path

import numpy as np

from regionspot.core.errors import ConfigError
from regionspot.core.files import write_text_atomic

_STREAM = 0x7003
"""First word of the seeds here; scenes use another one."""


def write_jittered_boxes(annotations_path: Path, output_path: Path, *, percent: int) -> None:
    """Write the boxes of an LVIS file with each side moved at random, as COCO results.

    A side moves by up to ``percent`` of the box's width or height, evenly distributed, and not
    beyond the image. Scores are 1. The bytes depend only on the annotations and ``percent``.

    Args:
        annotations_path: The LVIS file.
        output_path: The file to write.
        percent: Largest move, 1 to 45.

    Raises:
        ConfigError: The percentage is out of range.
    """
    if not 1 <= percent <= 45:
        raise ConfigError(
            f"boxes are to be jittered by {percent} %; wanted 1 to 45, which leaves none empty."
        )
    content = json.loads(annotations_path.read_text(encoding="utf-8"))
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    rows = []
    for entry in content["annotations"]:
        rng = np.random.default_rng([_STREAM, percent, entry["id"]])
        x, y, width, height = entry["bbox"]
        moves = rng.uniform(-percent / 100, percent / 100, 4) * (width, height, width, height)
        corners = np.array([x, y, x + width, y + height]) + moves
        limits = np.array(sizes[entry["image_id"]] * 2)
        x1, y1, x2, y2 = np.round(np.clip(corners, 0, limits), 2).tolist()
        box = [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)]
        # A results file needs a class; proposals ignore it.
        rows.append({"image_id": entry["image_id"], "category_id": 1, "bbox": box, "score": 1.0})
    write_text_atomic(output_path, json.dumps(rows) + "\n")
