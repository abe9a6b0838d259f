"""Random views of pool scenes, and what can be seen in them.

A view is a part of a scene, squashed to the CLIP's square input. Early in training only a block of
the view's patches is shown to the model (with their true position codes): a block costs half of
what a view costs, and captions speak of what the block shows.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from regionspot.toy import SETTINGS, vocabulary
from toy_towers.captions import VisibleObject
from toy_towers.pool import Pool, squash

_NAMES = vocabulary()
_WHOLE_SHARE = 0.25
_SCENE_AREA = 0.9
_MIN_SIDE = 0.25
_ASPECT = 1.4
_VISIBLE, _ABSENT = 0.6, 0.1
_MIN_AREA_SHARE = 0.002


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """The part of a view's patch grid that the model is shown; all of it when training ends."""

    grid: int
    """Patches on each side of the view."""
    side: int
    """Patches on each side of the block."""
    patch_size: int
    """Pixels on each side of a patch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What one training picture shows."""

    pixels: NDArray[np.uint8]
    """RGB of the block, (side * patch_size, side * patch_size, 3)."""
    corner_yx: tuple[int, int]
    """Row and column of the block's first patch in the view's grid."""
    objects: tuple[VisibleObject, ...]
    """Objects of which at least 60 % is visible; centres are relative to the whole view."""
    doubtful: tuple[str, ...]
    """Classes of which only a bit is visible: neither present nor absent."""
    setting: str
    """Where the scene plays."""


def random_view(
    pool: Pool, row: int, block: Block, rng: np.random.Generator, *, is_scene: bool = False
) -> View:
    """Take a random part of one scene; three of four views are drawn near some object.

    Args:
        pool: The scenes.
        row: Which of them.
        block: How much of the view is shown.
        rng: Source of all randomness.
        is_scene: Take nine tenths of the scene's area or more instead, wherever the objects are.

    Returns:
        The view with what it shows.
    """
    instances = pool.instances[row]
    full_areas = np.bincount(instances.ravel(), minlength=1)
    focus = _random_focus(instances, rng)
    side = instances.shape[0]
    y0, x0, height, width = (
        _scene_window(side, rng) if is_scene else _random_window(side, focus, block, rng)
    )
    window = slice(y0, y0 + height), slice(x0, x0 + width)
    size = block.grid * block.patch_size
    image = squash(pool.images[row][window], size)
    focus_in_view = (
        (focus.centre_xy[0] - x0) / width,
        (focus.centre_xy[1] - y0) / height,
    )
    corner_yx = _random_corner(block, focus_in_view, rng)
    top, left = corner_yx[0] * block.patch_size, corner_yx[1] * block.patch_size
    shown = block.side * block.patch_size
    seen = cv2.resize(instances[window], (size, size), interpolation=cv2.INTER_NEAREST_EXACT)
    seen = seen[top : top + shown, left : left + shown]
    areas = np.bincount(seen.ravel(), minlength=len(full_areas)) * (height * width / size**2)
    objects: list[VisibleObject] = []
    doubtful: list[str] = []
    for index in range(1, len(full_areas)):
        share = areas[index] / max(1, full_areas[index])
        name = _NAMES[pool.classes[row, index - 1]]
        is_large_enough = areas[index] > _MIN_AREA_SHARE * height * width
        if share >= _VISIBLE and is_large_enough:
            y, x = np.nonzero(seen == index)
            centre = ((x.mean() + left) / size, (y.mean() + top) / size)
            objects.append(VisibleObject(name=name, centre_xy=centre))
        elif share > _ABSENT:
            doubtful.append(name)
    return View(
        pixels=image[top : top + shown, left : left + shown],
        corner_yx=corner_yx,
        objects=tuple(objects),
        doubtful=tuple(doubtful),
        setting=SETTINGS[pool.settings[row]],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Focus:
    """The object that a view is drawn near."""

    centre_xy: tuple[float, float]
    extent: float
    """The longer side of its visible part, in pixels."""


def _random_focus(instances: NDArray[np.uint8], rng: np.random.Generator) -> _Focus:
    present = np.unique(instances)
    y, x = np.nonzero(instances == rng.choice(present[present > 0]))
    return _Focus(
        centre_xy=(float(x.mean()), float(y.mean())),
        extent=float(max(np.ptp(x), np.ptp(y))),
    )


def _random_window(
    side: int, focus: _Focus, block: Block, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Choose a window near the focus, which fits into the block: top, left, height, width."""
    if rng.random() < _WHOLE_SHARE:
        return 0, 0, side, side
    shortest = max(_MIN_SIDE * side, focus.extent * block.grid / block.side)
    length = rng.uniform(min(shortest, side), side)
    aspect = np.exp(rng.uniform(-1, 1) * np.log(_ASPECT) / 2)
    width, height = min(side, round(length * aspect)), min(side, round(length / aspect))
    x = focus.centre_xy[0] - width / 2 + rng.normal(0, width * 0.1)
    y = focus.centre_xy[1] - height / 2 + rng.normal(0, height * 0.1)
    left, top = int(np.clip(x, 0, side - width)), int(np.clip(y, 0, side - height))
    return top, left, height, width


def _scene_window(side: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Choose a window of at least nine tenths of the area, as open_clip's own training does."""
    height, width = (round(side * rng.uniform(_SCENE_AREA**0.5, 1)) for _ in range(2))
    top, left = (int(rng.integers(side - length + 1)) for length in (height, width))
    return top, left, height, width


def _random_corner(
    block: Block, focus_in_view: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int]:
    """Place the block near the focus, which is given in widths and heights of the view."""
    room = block.grid - block.side
    corner = [
        round(at * block.grid - block.side / 2 + rng.normal(0, block.side * 0.1))
        for at in reversed(focus_in_view)
    ]
    return min(room, max(0, corner[0])), min(room, max(0, corner[1]))
