"""Reads V3Det ground truth, and its category tree: which categories are kinds of which."""

from collections.abc import Mapping
from pathlib import Path

from regionspot.annotations.coco import read_coco_json
from regionspot.annotations.columns import RawAnnotations
from regionspot.annotations.json_lists import JsonFile
from regionspot.annotations.options import Source
from regionspot.core.errors import AnnotationError

_TREE_IDS, _DESCENDANTS = "categoryid2treeid", "ancestor2descendant"


def read_v3det(source: Source) -> RawAnnotations:
    """Read a V3Det file; an image's file is its ``file_name``, below the folder of ``images``.

    Files without the descriptions, which other tools write, are accepted. In some copies two
    categories have one name; these are refused, since text could not tell their labels apart: the
    message names both, and one has to be renamed in the file.
    """
    return read_coco_json(source.path, format_name="v3det", also=("coco",))


def read_category_tree(path: Path) -> dict[int, frozenset[int]]:
    """Read ``v3det_2023_v1_category_tree.json``.

    The file has one object per relation. ``categoryid2treeid`` gives the tree's own name of each
    category (``"1": "n02084071"``), ``ancestor2descendant`` all nodes below a node. Nodes that are
    not categories of the data set are ignored.

    Returns:
        For each category id the ids of all categories that are kinds of it.
    """
    file = JsonFile(path)
    relations: dict[str, dict[str, object]] = {_TREE_IDS: {}, _DESCENDANTS: {}}
    for container in file.containers:
        if container.name in relations:
            content = next(container.pieces()).load()
            relations[container.name] = content if isinstance(content, dict) else {}
    if not all(relations.values()):
        found = ", ".join(list(file.skeleton)[:6]) if isinstance(file.skeleton, dict) else "none"
        raise AnnotationError(
            f"{path} is no category tree of V3Det: it needs the objects {_TREE_IDS} and"
            f" {_DESCENDANTS}; it has the keys {found}. Give v3det_2023_v1_category_tree.json."
        )
    numbers = _category_ids(relations[_TREE_IDS], path)
    descendants = relations[_DESCENDANTS]
    return {
        number: frozenset(
            numbers[node] for node in _nodes(descendants, name, path) & numbers.keys()
        )
        for name, number in numbers.items()
    }


def _category_ids(tree_ids: Mapping[str, object], path: Path) -> dict[str, int]:
    numbers: dict[str, int] = {}
    for number, name in tree_ids.items():
        if not number.isdecimal() or not isinstance(name, str):
            raise AnnotationError(
                f"{path}: {_TREE_IDS} maps {number!r} to {name!r}; wanted a category id and the"
                " name of a node."
            )
        numbers[name] = int(number)
    return numbers


def _nodes(descendants: Mapping[str, object], name: str, path: Path) -> set[str]:
    nodes = descendants.get(name, [])
    if not isinstance(nodes, list) or not all(isinstance(node, str) for node in nodes):
        raise AnnotationError(
            f"{path}: {_DESCENDANTS}[{name!r}] is {str(nodes)[:60]}; wanted a list of nodes."
        )
    return set(nodes)
