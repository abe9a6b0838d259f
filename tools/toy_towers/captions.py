"""Captions of the pictures that train the toy world's CLIP.

As on the web, captions say what is in the picture and sometimes roughly where; they never give
coordinates. The set of words is closed: `WORDS` are the words of the tower's tokenizer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from open_clip import OPENAI_IMAGENET_TEMPLATES

from regionspot.toy import COLOURS, SETTINGS, SHAPES, TEXTURES, THINGS, look_of

TEMPLATES: tuple[str, ...] = (
    "{}.",
    *(make("{}") for make in OPENAI_IMAGENET_TEMPLATES),
    "{}",
    "a {}.",
    "the {}.",
    "there is a {} in the scene.",
    "an image with a {}.",
    "this image shows a {}.",
    "a {} in the scene.",
)
"""Frames for one name: those that zero-shot classifiers use, and a few that sound like captions."""

_SENTENCES = ("a photo of {}.", "there is {}.", "a picture of {}.", "{}.")
_SETTING_FRAMES = ("a view of the {}.", "a photo of the {}.", "{} background.", "the {}.")
_ROWS = ("top", "", "bottom")
_COLUMNS = ("left", "", "right")


def _closed_words() -> tuple[str, ...]:
    """Collect every word of every caption, in a fixed order."""
    places = ["at the top left", "on the right", "in the middle", "at the bottom"]
    relations = ["to the left of", "to the right of", "above", "below", "and"]
    names = [*TEXTURES, *COLOURS, *SHAPES, *SETTINGS, *THINGS]
    frames = [*TEMPLATES, *_SENTENCES, *_SETTING_FRAMES, *places, *relations]
    text = " ".join([*names, *frames]).replace("{}", " ").replace(".", " . ").replace(",", " , ")
    return tuple(dict.fromkeys(text.lower().split()))


WORDS = _closed_words()
"""All words that captions use, attributes first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VisibleObject:
    """One object as a caption's author sees it."""

    name: str
    """Its class."""
    centre_xy: tuple[float, float]
    """Centre of its visible part, in widths and heights of the picture, 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedCaption:
    """A caption that says what is where, and one that mixes it up."""

    true: str
    """Right for its picture."""
    false: str
    """The same words bound wrongly: places or one attribute swapped."""


def template(rng: np.random.Generator) -> str:
    """Choose a frame for one name at random."""
    return TEMPLATES[rng.integers(len(TEMPLATES))]


def setting_caption(rng: np.random.Generator, setting: str) -> str:
    """Say where a scene plays."""
    return _SETTING_FRAMES[rng.integers(len(_SETTING_FRAMES))].format(setting)


def place_of(centre_xy: tuple[float, float]) -> str:
    """Name the ninth of the picture that a point is in: "at the top left", "in the middle".

    Args:
        centre_xy: Point in widths and heights of the picture.

    Returns:
        A phrase that follows a noun.
    """
    column = _COLUMNS[min(2, max(0, int(centre_xy[0] * 3)))]
    row = _ROWS[min(2, max(0, int(centre_xy[1] * 3)))]
    if not row and not column:
        return "in the middle"
    return f"at the {row} {column}".strip() if row else f"on the {column}"


def placed_caption(
    rng: np.random.Generator, objects: Sequence[VisibleObject]
) -> PlacedCaption | None:
    """Say where one object is, or where two are, or how they lie to each other.

    Args:
        rng: Chooses objects and wording.
        objects: What is visible; classes that occur twice are not mentioned.

    Returns:
        The caption with its false twin, or None if nothing unambiguous can be said.
    """
    names = [one.name for one in objects]
    unique = [one for one in objects if names.count(one.name) == 1]
    sentence = _SENTENCES[rng.integers(len(_SENTENCES))]
    if not unique:
        return None
    order = rng.permutation(len(unique))
    first = unique[order[0]]
    if len(unique) == 1 or rng.random() < 0.4:
        here = place_of(first.centre_xy)
        elsewhere = [place for place in _all_places() if place != here]
        there = elsewhere[rng.integers(len(elsewhere))]
        return PlacedCaption(
            true=sentence.format(f"a {first.name} {here}"),
            false=sentence.format(f"a {first.name} {there}"),
        )
    second = unique[order[1]]
    swapped = _swap_attribute(rng, first.name, second.name, names)
    if swapped is None or rng.random() < 0.5:
        swapped = (second.name, first.name)
    true, false = _two_object_phrases(rng, first, second, swapped)
    if true == false:
        return None
    return PlacedCaption(true=sentence.format(true), false=sentence.format(false))


def _all_places() -> list[str]:
    thirds = (1 / 6, 1 / 2, 5 / 6)
    return [place_of((x, y)) for y in thirds for x in thirds]


def _two_object_phrases(
    rng: np.random.Generator,
    first: VisibleObject,
    second: VisibleObject,
    swapped: tuple[str, str],
) -> tuple[str, str]:
    """Fill the same frame with the right names and with the swapped ones."""
    if rng.random() < 0.4:
        frame = f"a {{}} {_relation(first.centre_xy, second.centre_xy)} a {{}}"
    else:
        here, there = place_of(first.centre_xy), place_of(second.centre_xy)
        frame = f"a {{}} {here} and a {{}} {there}"
        if here == there and set(swapped) == {first.name, second.name}:
            # The order of two things in one place says nothing.
            return "", ""
    return frame.format(first.name, second.name), frame.format(*swapped)


def _relation(first_xy: tuple[float, float], second_xy: tuple[float, float]) -> str:
    dx, dy = first_xy[0] - second_xy[0], first_xy[1] - second_xy[1]
    if abs(dx) > abs(dy):
        return "to the left of" if dx < 0 else "to the right of"
    return "above" if dy < 0 else "below"


def _swap_attribute(
    rng: np.random.Generator, first: str, second: str, present: Sequence[str]
) -> tuple[str, str] | None:
    """Exchange one word of two compositions, unless the result is in the picture as well."""
    if look_of(first).colour is None or look_of(second).colour is None:
        return None
    words = [first.split(), second.split()]
    differing = [k for k in range(3) if words[0][k] != words[1][k]]
    if len(differing) < 2:
        return None
    k = differing[rng.integers(len(differing))]
    words[0][k], words[1][k] = words[1][k], words[0][k]
    swapped = (" ".join(words[0]), " ".join(words[1]))
    return None if set(swapped) & set(present) else swapped
