"""The class names of the toy world, and how often each class occurs.

Every class is either a *composition*, ``<texture> <colour> <shape>`` ("striped red heart"), or a
*context class*, ``<setting> <thing>`` ("sea egg"). An egg looks the same in all four settings, so
only the scene around it tells a sea egg from a desert egg; no crop of the egg alone can.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SHAPES = ("circle", "square", "triangle", "star", "cross", "heart", "ring", "arrow")
COLOURS = ("red", "yellow", "green", "blue", "purple", "white")
TEXTURES = ("plain", "striped", "dotted")
SETTINGS = ("sea", "desert", "forest", "night")
THINGS = ("egg", "gem", "shell", "flag", "lamp")

_RANKING_SEED = 7
"""Determines the frequency of each class. A constant, like LVIS's ranking, and not an argument:
towers, worlds and reports must mean the same classes by the same names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Appearance of the objects of a class."""

    outline: str
    """Name of the outline to draw: one of `SHAPES` or `THINGS`."""
    colour: str | None = None
    """One of `COLOURS`; None for context classes, which have any colour."""
    texture: str | None = None
    """One of `TEXTURES`; None for context classes, which are always glossy."""
    setting: str | None = None
    """One of `SETTINGS`: where a context class occurs. None for compositions."""


def look_of(name: str) -> Look:
    """Return the appearance that a name from `vocabulary` describes.

    Raises:
        ValueError: ``name`` is neither a composition nor a context class.
    """
    match name.split():
        case [texture, colour, outline] if (
            texture in TEXTURES and colour in COLOURS and outline in SHAPES
        ):
            return Look(outline=outline, colour=colour, texture=texture)
        case [setting, outline] if setting in SETTINGS and outline in THINGS:
            return Look(outline=outline, setting=setting)
    raise ValueError(
        f"{name!r} is no class of the toy world; names are '<texture> <colour> <shape>'"
        f" or '<setting> <thing>', for instance 'striped red heart' or 'sea egg'."
    )


def vocabulary() -> tuple[str, ...]:
    """Return 144 compositions and 20 context classes, in a fixed random order of frequency."""
    names = [f"{t} {c} {s}" for s in SHAPES for c in COLOURS for t in TEXTURES]
    names += [f"{setting} {thing}" for setting in SETTINGS for thing in THINGS]
    order = np.random.default_rng(_RANKING_SEED).permutation(len(names))
    return tuple(names[i] for i in order)


def zipf(num_classes: int, exponent: float) -> NDArray[np.float64]:
    """Return probabilities, (num_classes,), proportional to ``(i + 1) ** -exponent``."""
    weights = 1.0 / np.arange(1, num_classes + 1, dtype=np.float64) ** exponent
    return weights / weights.sum()
