"""The class names: literal counts, a fixed order of frequency, and what a name says."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regionspot.toy import look_of, vocabulary, zipf
from regionspot.toy.names import Look

COMPOSITIONS = {
    f"{texture} {colour} {shape}"
    for texture in ("plain", "striped", "dotted")
    for colour in ("red", "yellow", "green", "blue", "purple", "white")
    for shape in ("circle", "square", "triangle", "star", "cross", "heart", "ring", "arrow")
}
CONTEXT_CLASSES = {
    f"{setting} {thing}"
    for setting in ("sea", "desert", "forest", "night")
    for thing in ("egg", "gem", "shell", "flag", "lamp")
}


def test_there_are_144_compositions_and_20_context_classes() -> None:
    names = vocabulary()
    assert len(names) == len(set(names)) == 164
    assert (len(COMPOSITIONS), len(CONTEXT_CLASSES)) == (144, 20)
    assert set(names) == COMPOSITIONS | CONTEXT_CLASSES


def test_the_order_of_frequency_is_part_of_the_vocabulary() -> None:
    """Worlds, towers and reports mean classes by it; it may never change."""
    names = vocabulary()
    assert names[:4] == (
        "plain red ring",
        "forest lamp",
        "dotted red circle",
        "dotted yellow arrow",
    )
    assert names[-3:] == ("dotted green heart", "desert egg", "striped purple arrow")


@pytest.mark.parametrize(
    ("name", "look"),
    [
        ("striped red heart", Look(outline="heart", colour="red", texture="striped")),
        ("plain white ring", Look(outline="ring", colour="white", texture="plain")),
        ("sea egg", Look(outline="egg", setting="sea")),
        ("night lamp", Look(outline="lamp", setting="night")),
    ],
)
def test_a_name_says_what_its_class_looks_like(name: str, look: Look) -> None:
    assert look_of(name) == look


def test_every_class_has_a_look() -> None:
    for name in vocabulary():
        look = look_of(name)
        parts = (look.texture, look.colour, look.setting, look.outline)
        assert " ".join(part for part in parts if part) == name


@pytest.mark.parametrize(
    "name", ["", "heart", "red heart", "red striped heart", "sea heart", "egg sea", "sea red heart"]
)
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' is no class of the toy world; names are"):
        look_of(name)


def test_zipf_is_one_over_the_rank() -> None:
    harmonic = sum(Fraction(1, rank) for rank in range(1, 5))
    wanted = [float(Fraction(1, rank) / harmonic) for rank in range(1, 5)]
    np.testing.assert_allclose(zipf(4, 1.0), wanted, rtol=1e-12)
    np.testing.assert_allclose(zipf(5, 0.0), [0.2] * 5, rtol=1e-12)


@settings(deadline=None)  # the machine may be busy
@given(num_classes=st.integers(1, 300), exponent=st.floats(0, 3))
def test_zipf_gives_probabilities_with_power_law_ratios(num_classes: int, exponent: float) -> None:
    probabilities = zipf(num_classes, exponent)
    assert probabilities.sum() == pytest.approx(1)
    assert probabilities[0] / probabilities[-1] == pytest.approx(num_classes**exponent)
    assert (np.diff(probabilities) <= 0).all()
