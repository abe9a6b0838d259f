"""Composes scenes: chooses classes that occur together, places them, and measures what is visible.

A scene has one setting. Objects may overlap and may extend a little beyond the image. Later objects
hide earlier ones; boxes and masks are those of the visible pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from regionspot.toy.drawing import Placement, draw_background, draw_object
from regionspot.toy.names import SETTINGS, look_of

_SIDES = (112, 128, 144, 160)
_MIN_RADIUS, _MAX_RADIUS = 14.0, 36.0
_MIN_DRAWN_AREA = 40
_PLACING_ATTEMPTS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A rendered image with its ground truth. Entry ``i`` of each sequence is of object ``i``."""

    image: NDArray[np.uint8]
    """RGB, (H, W, 3)."""
    instances: NDArray[np.uint8]
    """Visible object of each pixel, (H, W): 0 is background, ``i + 1`` is object ``i``."""
    names: tuple[str, ...]
    """Class names, N of them."""
    boxes_xyxy: NDArray[np.float32]
    """Extent of each object's visible pixels, (N, 4), pixels; all zero if it is hidden."""
    setting: str
    """Setting of the scene: one of ``regionspot.toy.names.SETTINGS``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassMix:
    """How to choose the classes of one scene."""

    names: Sequence[str]
    """Classes that may occur."""
    probabilities: NDArray[np.float64]
    """Probability of each of them, (len(names),)."""
    num_objects: tuple[int, int]
    """Minimum and maximum number of objects."""
    repeat: float = 0.3
    """Probability that an object repeats a class of the scene."""


def sample_scene(rng: np.random.Generator, mix: ClassMix, *, min_objects: int = 1) -> Scene:
    """Choose classes and render them, until a scene has at least ``min_objects`` objects."""
    while True:
        names, setting = sample_names(rng, mix)
        scene = render_scene(rng, names, setting)
        if len(scene.names) >= min_objects:
            return scene


def sample_names(rng: np.random.Generator, mix: ClassMix) -> tuple[list[str], str]:
    """Choose the classes of a scene, in drawing order, and its setting.

    The first context class drawn determines the setting; those of other settings are skipped.
    """
    low, high = mix.num_objects
    wanted = int(rng.integers(low, high + 1))
    cumulative = np.cumsum(mix.probabilities)
    names: list[str] = []
    setting: str | None = None
    while len(names) < wanted:
        if names and rng.random() < mix.repeat:
            names.append(names[rng.integers(len(names))])
            continue
        rank = int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))
        name = mix.names[min(rank, len(mix.names) - 1)]
        needed = look_of(name).setting
        if needed is not None:
            if setting is not None and needed != setting:
                continue
            setting = needed
        names.append(name)
    return names, setting or SETTINGS[rng.integers(len(SETTINGS))]


def render_scene(rng: np.random.Generator, names: Sequence[str], setting: str) -> Scene:
    """Draw a scene of random size; classes without enough free space are left out."""
    height, width = (int(rng.choice(_SIDES)) for _ in range(2))
    image = draw_background(rng, (height, width), setting)
    instances = np.zeros((height, width), np.uint8)
    kept: list[str] = []
    areas: list[int] = []
    for name in names:
        placement = _find_place(rng, instances, areas)
        if placement is None:
            continue
        cover = draw_object(rng, image, look_of(name), placement)
        # Not labelled if little is inside the image, as annotators leave slivers out.
        if int(cover.sum()) < _MIN_DRAWN_AREA:
            continue
        kept.append(name)
        areas.append(int(cover.sum()))
        instances[cover] = len(kept)
    return Scene(
        image=_expose(rng, image),
        instances=instances,
        names=tuple(kept),
        boxes_xyxy=extents_xyxy(instances, len(kept)),
        setting=setting,
    )


def _find_place(
    rng: np.random.Generator, instances: NDArray[np.uint8], areas: Sequence[int]
) -> Placement | None:
    """Find a mostly free place that leaves 60 % of each earlier object visible."""
    height, width = instances.shape
    y, x = np.ogrid[:height, :width]
    visible = np.bincount(instances.ravel(), minlength=len(areas) + 1)
    for _ in range(_PLACING_ATTEMPTS):
        radius = math.exp(rng.uniform(math.log(_MIN_RADIUS), math.log(_MAX_RADIUS)))
        cx = rng.uniform(radius * 0.6, width - radius * 0.6)
        cy = rng.uniform(radius * 0.6, height - radius * 0.6)
        disc = (x - cx) ** 2 + (y - cy) ** 2 < (radius * 0.9) ** 2
        hidden = np.bincount(instances[disc], minlength=len(areas) + 1)
        is_free = not areas or hidden[0] > 0.65 * hidden.sum()
        left = visible[1:] - hidden[1:]
        if is_free and all(left > 0.6 * np.asarray(areas)):
            return Placement(centre_xy=(cx, cy), radius=radius)
    return None


def _expose(rng: np.random.Generator, image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Simulate a camera: a soft lens in half of the images, exposure and noise in all."""
    if rng.random() < 0.5:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.8)).astype(np.float32)
    noise = rng.standard_normal(image.shape, dtype=np.float32) * np.float32(rng.uniform(2, 9))
    exposed = image * np.float32(rng.uniform(0.85, 1.12)) + noise
    return np.clip(exposed, 0, 255).astype(np.uint8)


def extents_xyxy(instances: NDArray[np.uint8], num_objects: int) -> NDArray[np.float32]:
    """Return the box of each object's visible pixels, (N, 4), in pixels.

    Args:
        instances: Object of each pixel, (H, W): 0 is background, ``i + 1`` is object ``i``.
        num_objects: Number of objects N.

    Returns:
        Boxes ``(x1, y1, x2, y2)``, where ``x2`` and ``y2`` are just beyond the last pixel; zeros
        for a hidden object.
    """
    boxes = np.zeros((num_objects, 4), np.float32)
    for index in range(num_objects):
        y, x = np.nonzero(instances == index + 1)
        if len(x):
            boxes[index] = (x.min(), y.min(), x.max() + 1, y.max() + 1)
    return boxes
