"""Captions, read back by a parser of this file and compared with what is in the picture."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from open_clip import OPENAI_IMAGENET_TEMPLATES

from regionspot.toy import SETTINGS, vocabulary
from toy_towers.captions import (
    TEMPLATES,
    WORDS,
    VisibleObject,
    place_of,
    placed_caption,
    setting_caption,
    template,
)
from toy_towers.towers import ClipShape

PLACES = {
    ("left", "top"): "at the top left",
    ("centre", "top"): "at the top",
    ("right", "top"): "at the top right",
    ("left", "centre"): "on the left",
    ("centre", "centre"): "in the middle",
    ("right", "centre"): "on the right",
    ("left", "bottom"): "at the bottom left",
    ("centre", "bottom"): "at the bottom",
    ("right", "bottom"): "at the bottom right",
}
RELATIONS = ("to the left of", "to the right of", "above", "below")
NAME = "|".join(vocabulary())
PLACE = "|".join(sorted(PLACES.values(), key=len, reverse=True))
ONE = re.compile(rf"a ({NAME}) ({PLACE})")
TWO = re.compile(rf"a ({NAME}) ({PLACE}) and a ({NAME}) ({PLACE})")
RELATED = re.compile(rf"a ({NAME}) ({'|'.join(RELATIONS)}) a ({NAME})")
FRAME = re.compile(r"(?:a photo of |there is |a picture of |)(a .*)\.")

SHARE = st.floats(0, 1)
SEEDS = st.integers(0, 2**32)
# Few names, so that captions meet names that share words, and repeated ones.
SEVERAL = st.lists(
    st.builds(
        VisibleObject,
        name=st.sampled_from(
            [
                *("plain red star", "plain blue star", "striped red star", "striped blue ring"),
                *("plain blue ring", "sea egg", "sea lamp", "dotted white heart"),
            ]
        ),
        centre_xy=st.tuples(SHARE, SHARE),
    ),
    max_size=6,
)


def third(share: float, names: tuple[str, str, str]) -> str:
    return names[0] if share * 3 < 1 else names[1] if share * 3 < 2 else names[2]


def place_by_thirds(centre_xy: tuple[float, float]) -> str:
    column = third(centre_xy[0], ("left", "centre", "right"))
    row = third(centre_xy[1], ("top", "centre", "bottom"))
    return PLACES[column, row]


def says_related(relation: str, one: VisibleObject, other: VisibleObject) -> bool:
    dx, dy = (a - b for a, b in zip(one.centre_xy, other.centre_xy, strict=True))
    return {
        "to the left of": dx < 0,
        "to the right of": dx > 0,
        "above": dy < 0,
        "below": dy > 0,
    }[relation]


def is_true_of(caption: str, objects: Sequence[VisibleObject]) -> bool:
    """Read a caption and look for objects that it is true of."""
    framed = FRAME.fullmatch(caption)
    assert framed is not None, caption
    text = framed[1]

    def is_there(name: str, place: str) -> bool:
        return any(one.name == name and place_by_thirds(one.centre_xy) == place for one in objects)

    if found := ONE.fullmatch(text):
        return is_there(*found.groups())
    if found := TWO.fullmatch(text):
        return is_there(found[1], found[2]) and is_there(found[3], found[4])
    found = RELATED.fullmatch(text)
    assert found is not None, caption
    return any(
        says_related(found[2], one, other)
        for one in objects
        for other in objects
        if (one.name, other.name) == (found[1], found[3])
    )


@pytest.mark.parametrize(
    ("centre_xy", "place"),
    [
        ((0.1, 0.1), "at the top left"),
        ((0.5, 0.1), "at the top"),
        ((0.9, 0.1), "at the top right"),
        ((0.1, 0.5), "on the left"),
        ((0.5, 0.5), "in the middle"),
        ((0.9, 0.5), "on the right"),
        ((0.1, 0.9), "at the bottom left"),
        ((0.5, 0.9), "at the bottom"),
        ((0.9, 0.9), "at the bottom right"),
        ((0.0, 0.0), "at the top left"),
        ((1.0, 1.0), "at the bottom right"),
        ((0.33, 0.34), "on the left"),
        ((0.66, 0.67), "at the bottom"),
        ((-0.2, 1.7), "at the bottom left"),
    ],
)
def test_places_are_named_by_thirds(centre_xy: tuple[float, float], place: str) -> None:
    assert place_of(centre_xy) == place


@settings(deadline=None)  # the machine may be busy
@given(seed=SEEDS, objects=SEVERAL)
def test_a_caption_is_true_and_its_twin_is_not(seed: int, objects: list[VisibleObject]) -> None:
    assume(len({one.centre_xy for one in objects}) == len(objects))
    pair = placed_caption(np.random.default_rng(seed), objects)
    if pair is not None:
        assert is_true_of(pair.true, objects)
        assert not is_true_of(pair.false, objects)


def test_swapping_an_attribute_never_makes_a_name_that_is_in_the_picture() -> None:
    names = ("plain red star", "striped blue star", "striped red star", "plain blue star")
    centres = ((0.4, 0.4), (0.6, 0.6), (0.41, 0.45), (0.62, 0.55))  # all in the middle
    objects = [
        VisibleObject(name=name, centre_xy=centre_xy)
        for name, centre_xy in zip(names, centres, strict=True)
    ]
    for seed in range(100):
        pair = placed_caption(np.random.default_rng(seed), objects)
        assert pair is None or not is_true_of(pair.false, objects)


@settings(deadline=None)  # the machine may be busy
@given(seed=SEEDS, objects=SEVERAL)
def test_a_caption_speaks_only_of_classes_that_occur_once(
    seed: int, objects: list[VisibleObject]
) -> None:
    counts = Counter(one.name for one in objects)
    pair = placed_caption(np.random.default_rng(seed), objects)
    if 1 not in counts.values():
        assert pair is None
    if pair is not None:
        assert all(counts[name] == 1 for name in re.findall(NAME, pair.true))


@settings(deadline=None)  # the machine may be busy
@given(seed=SEEDS, objects=SEVERAL)
def test_a_twin_of_two_objects_has_the_same_words(seed: int, objects: list[VisibleObject]) -> None:
    pair = placed_caption(np.random.default_rng(seed), objects)
    if pair is None:
        return
    if len(re.findall(NAME, pair.true)) == 2:
        assert sorted(pair.false.strip(".").split()) == sorted(pair.true.strip(".").split())
    else:
        assert re.sub(PLACE, "", pair.false) == re.sub(PLACE, "", pair.true)
    assert pair.false != pair.true


@settings(deadline=None)  # the machine may be busy
@given(seed=SEEDS, objects=SEVERAL)
def test_captions_fit_into_the_tower(seed: int, objects: list[VisibleObject]) -> None:
    pair = placed_caption(np.random.default_rng(seed), objects)
    for text in () if pair is None else (pair.true, pair.false):
        words = text.lower().replace(".", " .").split()
        assert set(words) <= set(WORDS)
        assert len(words) + 2 <= ClipShape().context_length  # start and end of text


def test_all_kinds_of_captions_occur() -> None:
    objects = [
        VisibleObject(name="plain red star", centre_xy=(0.2, 0.2)),
        VisibleObject(name="striped blue ring", centre_xy=(0.8, 0.5)),
    ]
    seen: Counter[str] = Counter()
    swapped_attributes = 0
    for seed in range(200):
        pair = placed_caption(np.random.default_rng(seed), objects)
        assert pair is not None
        text = FRAME.fullmatch(pair.true)
        assert text is not None
        for kind, pattern in (("one", ONE), ("two", TWO), ("related", RELATED)):
            seen[kind] += pattern.fullmatch(text[1]) is not None
        names = set(re.findall(NAME, pair.false))
        swapped_attributes += not names <= {one.name for one in objects}
    assert sum(seen.values()) == 200
    assert min(seen[kind] for kind in ("one", "two", "related")) > 20
    assert swapped_attributes > 20


def test_the_frames_are_open_clips_80_and_eight_more() -> None:
    theirs = {make("{}") for make in OPENAI_IMAGENET_TEMPLATES}
    assert theirs < set(TEMPLATES)
    assert len(TEMPLATES) == len(set(TEMPLATES)) == 88
    assert all(frame.count("{}") == 1 for frame in TEMPLATES)


def test_every_frame_is_drawn_and_known_to_the_tokenizer() -> None:
    rng = np.random.default_rng(0)
    frames = {template(rng) for _ in range(2000)}
    assert frames == set(TEMPLATES)
    for frame in frames:
        words = frame.replace("{}", "").lower().replace(".", " . ").replace(",", " , ").split()
        assert set(words) <= set(WORDS)


def test_every_word_is_listed_once_in_lower_case_with_attributes_first() -> None:
    assert len(WORDS) == len(set(WORDS)) == 98
    assert WORDS[:4] == ("plain", "striped", "dotted", "red")
    assert all(word == word.lower() and " " not in word for word in WORDS)
    assert {word for name in vocabulary() for word in name.split()} <= set(WORDS)


def test_settings_are_said_in_four_ways() -> None:
    rng = np.random.default_rng(0)
    for setting in SETTINGS:
        assert {setting_caption(rng, setting) for _ in range(100)} == {
            f"a view of the {setting}.",
            f"a photo of the {setting}.",
            f"{setting} background.",
            f"the {setting}.",
        }
