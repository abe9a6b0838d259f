"""V3Det's category tree, in the layout that its README and its evaluation code describe."""

import json
from pathlib import Path

import pytest

from regionspot.annotations import read_category_tree
from regionspot.core.errors import AnnotationError, MissingFileError

TREE = {
    "categoryid2treeid": {"1": "n02084071", "7": "n02085374", "3": "n07749582"},
    "id2name": {"n02084071": "dog", "n02085374": "toy dog", "n07749582": "lemon"},
    "father2child": {"n00001740": ["n02084071"]},
    "ancestor2descendant": {
        "n00001740": ["n02084071", "n02085374", "n07749582"],  # the root is no category
        "n02084071": ["n02085374", "n02087122"],  # nor is the last of these
    },
}


def test_categories_know_their_kinds(tmp_path: Path) -> None:
    path = tmp_path / "tree.json"
    path.write_text(json.dumps(TREE))
    assert read_category_tree(path) == {1: {7}, 7: set(), 3: set()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ancestor2descendant": []}, r"no category tree of V3Det.*keys categoryid2treeid, id2n"),
        (
            {"categoryid2treeid": {"a": "n"}},
            r"categoryid2treeid maps 'a' to 'n'; wanted a category",
        ),
        ({"categoryid2treeid": {"1": 2}}, r"categoryid2treeid maps '1' to 2"),
        ({"ancestor2descendant": {"n02084071": "n"}}, r"\['n02084071'\] is n; wanted a list"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    path = tmp_path / "tree.json"
    path.write_text(json.dumps(TREE | changes))
    with pytest.raises(AnnotationError, match=rf"tree\.json.*{message}"):
        read_category_tree(path)


def test_what_is_no_object_or_not_there_says_so(tmp_path: Path) -> None:
    (tmp_path / "tree.json").write_text("[]")
    with pytest.raises(AnnotationError, match=r"it has the keys none"):
        read_category_tree(tmp_path / "tree.json")
    with pytest.raises(MissingFileError, match=r"no\.json does not exist"):
        read_category_tree(tmp_path / "no.json")
