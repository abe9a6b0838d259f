"""Rendered photos: balls and boxes on a wooden floor, ray-traced, and their ground truth."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

Floats = NDArray[np.float64]
LIGHT = np.array([-0.45, 0.8, -0.4]) / np.linalg.norm([-0.45, 0.8, -0.4])
FOCAL_LENGTH = 1.15  # in widths of the picture


@dataclass(frozen=True, kw_only=True)
class Thing:
    """A ball (``size`` holds its radius) or a box (half its width, height and depth)."""

    category: str
    centre: tuple[float, float, float]
    size: tuple[float, ...]
    colour: tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """Levels of ``(H, W, 3)`` pixels, and for each the number of the thing it shows, or -1."""

    pixels: NDArray[np.uint8]
    shown: NDArray[np.int64]


def _ball(thing: Thing, origin: Floats, direction: Floats) -> Floats:
    """Return how far along each ray the ball is met; infinity where it is not."""
    offset = origin - np.array(thing.centre)
    along = (offset * direction).sum(axis=-1)
    root = along**2 - (offset * offset).sum(axis=-1) + thing.size[0] ** 2
    distance = -along - np.sqrt(np.maximum(root, 0))
    return np.where((root > 0) & (distance > 1e-4), distance, np.inf)


def _box(thing: Thing, origin: Floats, direction: Floats) -> Floats:
    """Return how far along each ray the box is met; infinity where it is not."""
    offset = np.array(thing.centre) - origin
    inverse = 1 / np.where(np.abs(direction) < 1e-9, 1e-9, direction)
    ends = np.stack([(offset - thing.size) * inverse, (offset + thing.size) * inverse])
    near, far = ends.min(axis=0).max(axis=-1), ends.max(axis=0).min(axis=-1)
    return np.where((near < far) & (near > 1e-4), near, np.inf)


def _met(thing: Thing, origin: Floats, direction: Floats) -> Floats:
    return (_ball if len(thing.size) == 1 else _box)(thing, origin, direction)


def _normals(thing: Thing, points: Floats) -> Floats:
    offset = points - np.array(thing.centre)
    if len(thing.size) == 1:
        return offset / thing.size[0]
    scaled = offset / np.array(thing.size)
    outermost = np.abs(scaled).argmax(axis=-1)[..., None] == np.arange(3)
    return np.where(outermost, np.sign(scaled), 0.0)


def _wood(points: Floats) -> Floats:
    """Return the colour of a floor of planks."""
    plank = np.floor(points[..., 0] / 0.6)
    grain = np.sin(9 * points[..., 0] + 3 * np.sin(1.7 * points[..., 2] + 5 * plank))
    seam = np.abs(points[..., 0] / 0.6 - plank - 0.5) > 0.485
    level = 0.62 + 0.06 * np.sin(12.9898 * plank) + 0.05 * grain - 0.25 * seam
    return level[..., None] * np.array([1.0, 0.78, 0.55])


def render(
    things: Sequence[Thing], size_hw: tuple[int, int], *, horizon: float, seed: int
) -> Picture:
    """Trace one ray a pixel, with shadows, highlights and the noise of a sensor.

    Args:
        things: What stands on the floor, in metres; the camera is 5 m in front, 1.6 m high.
        size_hw: Height and width in pixels.
        horizon: How far the horizon is above the middle, in heights of the picture.
        seed: Seed of the noise.
    """
    height, width = size_hw
    x, y = np.meshgrid(np.arange(width) + 0.5 - width / 2, height / 2 - np.arange(height) - 0.5)
    direction = np.stack([x, y - horizon * height, np.full(x.shape, FOCAL_LENGTH * width)], axis=-1)
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    origin = np.array([0.0, 1.6, -5.0])

    to_floor = np.where(direction[..., 1] < 0, -origin[1] / direction[..., 1], np.inf)
    distances = np.stack([to_floor, *(_met(thing, origin, direction) for thing in things)])
    nearest = distances.argmin(axis=0)
    distance = distances.min(axis=0)
    sky = ~np.isfinite(distance)
    points = origin + np.where(sky, 0, distance)[..., None] * direction

    normals = np.broadcast_to([0.0, 1.0, 0.0], points.shape).copy()
    colours = _wood(points)
    for number, thing in enumerate(things, start=1):
        here = nearest == number
        normals[here] = _normals(thing, points[here])
        colours[here] = thing.colour
    to_light = np.broadcast_to(LIGHT, points.shape)
    shaded = np.zeros(sky.shape, bool)
    for thing in things:
        shaded |= np.isfinite(_met(thing, points + 1e-3 * normals, to_light))
    diffuse = np.maximum((normals * LIGHT).sum(axis=-1), 0) * ~shaded
    mirrored = direction - 2 * (direction * normals).sum(axis=-1, keepdims=True) * normals
    shine = np.maximum((mirrored * LIGHT).sum(axis=-1), 0) ** 40 * ~shaded * (nearest > 0)
    light = colours * (0.3 + 0.75 * diffuse)[..., None] + 0.6 * shine[..., None]
    up = y / height
    haze = np.stack([0.65 + 0.3 * up, 0.75 + 0.2 * up, np.full(up.shape, 0.92)], axis=-1)
    light = np.where(sky[..., None], haze, light)

    noise = np.random.Generator(np.random.PCG64(seed)).integers(-3, 4, (height, width, 1))
    levels = np.clip(np.rint(255 * light**0.9) + noise, 0, 255).astype(np.uint8)
    return Picture(pixels=levels, shown=np.where(sky, 0, nearest) - 1)


TOYS = (
    Thing(category="ball", centre=(-1.2, 0.5, 0), size=(0.5,), colour=(0.85, 0.2, 0.15)),
    Thing(category="ball", centre=(0.1, 0.35, -1), size=(0.35,), colour=(0.2, 0.6, 0.3)),
    Thing(category="ball", centre=(1.6, 0.8, 1.5), size=(0.8,), colour=(0.9, 0.75, 0.2)),
    Thing(category="crate", centre=(0.5, 0.45, 1), size=(0.5, 0.45, 0.4), colour=(0.5, 0.35, 0.25)),
    Thing(category="crate", centre=(-1.9, 0.7, 2.2), size=(0.6, 0.7, 0.5), colour=(0.3, 0.4, 0.7)),
    Thing(
        category="brick", centre=(-0.7, 0.12, -1.7), size=(0.3, 0.12, 0.15), colour=(0.7, 0.3, 0.25)
    ),
    Thing(category="marble", centre=(0.85, 0.1, -1.35), size=(0.1,), colour=(0.7, 0.7, 0.9)),
)
PILLARS = (
    Thing(category="pillar", centre=(-1.6, 2, 3), size=(0.3, 2, 0.3), colour=(0.75, 0.7, 0.65)),
    Thing(category="pillar", centre=(1.7, 2, 5), size=(0.3, 2, 0.3), colour=(0.7, 0.72, 0.7)),
    Thing(category="ball", centre=(0.3, 1.1, 2), size=(1.1,), colour=(0.25, 0.3, 0.65)),
    Thing(category="crate", centre=(-0.8, 0.3, -0.6), size=(0.3, 0.3, 0.3), colour=(0.6, 0.5, 0.2)),
    Thing(category="marble", centre=(0.6, 0.12, -1.5), size=(0.12,), colour=(0.8, 0.3, 0.6)),
)
PHOTO_CATEGORIES = {"ball": 3, "brick": 4, "crate": 8, "marble": 21, "pillar": 107}


def photo_ground_truth(
    name: str, image_id: int, picture: Picture, things: Sequence[Thing]
) -> dict[str, Any]:
    """Return COCO's ground truth, with masks as run lengths in text, as of panoptic regions."""
    height, width = picture.shown.shape
    annotations = []
    for number, thing in enumerate(things):
        mask = np.asfortranarray(picture.shown == number, np.uint8)
        found = coco_mask.encode(mask)
        annotations.append(
            {
                "segmentation": {**found, "counts": found["counts"].decode()},
                "area": int(mask.sum()),
                "iscrowd": 0,
                "image_id": image_id,
                "bbox": list(cv2.boundingRect(mask)),
                "category_id": PHOTO_CATEGORIES[thing.category],
                "id": number,
            }
        )
    return {
        "info": {"description": "A rendered scene", "version": "1.0", "year": 2026},
        "images": [
            {"license": 1, "file_name": name, "height": height, "width": width}
            | {"date_captured": "2026-01-02 03:04:05", "id": image_id}
        ],
        "annotations": annotations,
        "categories": [
            {"supercategory": "thing", "color": [20 * number, 100, 60], "id": number, "name": name}
            for name, number in PHOTO_CATEGORIES.items()
        ],
    }


def encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    """Return the bytes of an image file."""
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def photo_files() -> dict[str, bytes]:
    """Return both photos and their ground truth by their paths in this folder.

    The first is wide, and smaller than SAM's frame; the second is high, and larger.
    """
    files = {}
    for image_id, things, size_hw, horizon in (
        (31_001, TOYS, (480, 640), 0.22),
        (31_002, PILLARS, (1350, 900), 0.1),
    ):
        picture = render(things, size_hw, horizon=horizon, seed=image_id)
        name = f"{image_id:012d}.jpg"
        truth = photo_ground_truth(name, image_id, picture, things)
        files[f"photos/{name}"] = encoded(Image.fromarray(picture.pixels), "JPEG", quality=75)
        files[f"photos/{image_id:012d}.json"] = json.dumps(truth).encode()
    return files
