import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean

import pytest

from regionspot.core.errors import ConfigError, MissingFileError
from regionspot.core.vocabulary import Vocabulary
from regionspot.evaluation.class_groups import read_class_groups, unseen_classes
from regionspot.model import HeadCard, HeadSpec
from regionspot.scoring import CategoryScore, ClassGroup, LvisScores
from regionspot.scoring.bootstrap import Interval
from regionspot.scoring.results import MethodResult, format_groups
from regionspot.toy import vocabulary

NAMES = Vocabulary(("cat", "aerosol_can", "Dog", "sea egg"))


def card(*seen: str) -> HeadCard:
    spec = HeadSpec(token_dim=8, feature_dim=16, text_dim=6)
    return HeadCard(head=spec, scale=1.0, bias=0.0, seen_classes=seen)


def scores(values: Sequence[float | None]) -> LvisScores:
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR", "ARs", "ARm", "ARl")
    rows = tuple(
        CategoryScore(category_id=number, name=name, frequency="r", num_annotations=1, AP=value)
        for number, (name, value) in enumerate(zip(NAMES, values, strict=True))
    )
    return LvisScores(
        **dict.fromkeys((*names, "APr", "APc", "APf"), None),
        num_categories={"r": 0, "c": 0, "f": 0},
        per_category=rows,
        precision50=(),
    )


def test_unseen_classes_are_those_of_no_head_whatever_the_spelling() -> None:
    unseen = unseen_classes([card("Cat"), card("aerosol can", "unrelated")], NAMES)
    assert unseen == ClassGroup(name="unseen", classes=("Dog", "sea egg"))


@pytest.mark.parametrize(
    "cards", [[], [card("cat"), card()], [card("CAT", "aerosol can", "dog", "SEA egg")]]
)
def test_no_group_without_unseen_classes_or_without_knowing(cards: list[HeadCard]) -> None:
    assert unseen_classes(cards, NAMES) is None


def test_ap_of_a_group_is_the_mean_over_its_classes_with_ground_truth() -> None:
    found = scores([10.0, None, 40.0, 70.0])
    group = ClassGroup(name="some", classes=("cat", "aerosol_can", "sea egg"))
    assert group.num_scored(found) == 2
    assert group.average_precision(found) == mean([10.0, 70.0])
    assert ClassGroup(name="x", classes=("aerosol_can",)).average_precision(found) is None


def test_the_printed_table_starts_with_all_classes() -> None:
    methods = [
        MethodResult(name=name, description="", scores=scores(values), region_figures={})
        for name, values in (("head", [10.0, None, 40.0, 70.0]), ("crop", [0, None, 0, 30.0]))
    ]
    groups = [
        ClassGroup(name="unseen", classes=("Dog", "sea egg")),
        ClassGroup(name="none", classes=("aerosol_can",)),
    ]
    assert format_groups(methods, groups).splitlines() == [
        "classes  number  head  crop",
        "all           3  40.0  10.0",
        "unseen        2  55.0  15.0",
        "none          0     -     -",
    ]
    assert format_groups(methods, []) == ""
    intervals = {"AP": Interval(low=38, high=42), "AP of unseen": Interval(low=50.06, high=61)}
    with_intervals = [replace(methods[0], intervals=intervals), methods[1]]
    assert format_groups(with_intervals, groups[:1]).splitlines() == [
        "classes  number                 head  crop",
        "all           3  40.0 (38.0 to 42.0)  10.0",
        "unseen        2  55.0 (50.1 to 61.0)  15.0",
    ]


def test_groups_are_read_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "groups.json"
    path.write_text('{"wet": ["sea egg"], "pets": ["Dog", "cat"]}')
    assert read_class_groups(path, NAMES) == (
        ClassGroup(name="wet", classes=("sea egg",)),
        ClassGroup(name="pets", classes=("Dog", "cat")),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"pets": ["dog", "cat"]}', "1 of 2 names are not in the vocabulary.*'dog'"),
        ('{"pets": []}', "there is no class"),
        ('{"pets": ["cat", "cat"]}', "'cat' occurs twice"),
        ('{"unseen": ["cat"]}', "a group named 'unseen'"),
        ('{" ": ["cat"]}', "a group named ' '"),
        ('{"pets": ["cat"], "pets": ["Dog"]}', "a group name occurs twice"),
        ('{"pets": "cat"}', "does not hold groups"),
        ('{"pets": [1]}', "does not hold groups"),
        ('["cat"]', "does not hold groups"),
        ("{", "cannot be read"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "groups.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_class_groups(path, NAMES)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="--class_groups"):
        read_class_groups(tmp_path / "nowhere.json", NAMES)


def test_the_toy_groups_are_the_classes_of_two_words() -> None:
    """A composition has three words, a context class two (docs/toy_world.md)."""
    path = Path(__file__).parents[3] / "configs" / "toy" / "class_groups.json"
    groups = json.loads(path.read_text(encoding="utf-8"))
    assert groups == {"context": sorted(n for n in vocabulary() if len(n.split()) == 2)}
    assert len(groups["context"]) == 20
