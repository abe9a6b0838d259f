"""Which groups of classes an evaluation scores: unseen classes, and those of a file."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from regionspot.core.errors import ConfigError, MissingFileError
from regionspot.core.json_text import load_json
from regionspot.core.vocabulary import Vocabulary
from regionspot.model import HeadCard
from regionspot.scoring import ClassGroup

UNSEEN = "unseen"
"""Name of the group of classes that no head was trained on."""
_WANTED = 'a JSON object of lists of class names: {"animals": ["cat", "dog"], "vehicles": ["car"]}'


def read_class_groups(path: Path, vocabulary: Vocabulary) -> tuple[ClassGroup, ...]:
    """Read groups of classes from a JSON file: lists of class names by the name of the group.

    Args:
        path: The file.
        vocabulary: The names that are allowed.

    Raises:
        MissingFileError: There is no such file.
        ConfigError: The file holds something else; a group has no name, no class, a class twice or
            one that is not in the vocabulary, or is named "unseen".
    """
    if not path.is_file():
        raise MissingFileError(f"no file of class groups at {path}. Correct --class_groups.")
    try:
        content = load_json(path.read_bytes(), object_pairs_hook=_without_repeats)
    except ValueError as error:
        raise ConfigError(f"{path} cannot be read ({error}); wanted {_WANTED}.") from error
    if not isinstance(content, dict) or not all(map(_is_list_of_names, content.values())):
        raise ConfigError(f"{path} does not hold groups of classes; wanted {_WANTED}.")
    for name, classes in content.items():
        if not name.strip() or name == UNSEEN:
            raise ConfigError(
                f"{path} has a group named {name!r}; wanted another name. {UNSEEN!r} is the group"
                " of classes that no head was trained on, which is found without a file."
            )
        _check_classes(classes, vocabulary, where=f"{path}, group {name!r}")
    return tuple(ClassGroup(name=name, classes=tuple(own)) for name, own in content.items())


def unseen_classes(cards: Iterable[HeadCard], vocabulary: Vocabulary) -> ClassGroup | None:
    """Return the classes of which no head was trained on a region.

    Names are compared without case, and with spaces for underscores. Synonyms are different names.

    Args:
        cards: The cards of all heads that are evaluated.
        vocabulary: The classes that are evaluated.

    Returns:
        The group; None if there is no head or no such class, or a head does not say what it was
        trained on.
    """
    found = list(cards)
    if not found or not all(card.seen_classes for card in found):
        return None
    seen = {_plain(name) for card in found for name in card.seen_classes}
    classes = tuple(name for name in vocabulary if _plain(name) not in seen)
    return ClassGroup(name=UNSEEN, classes=classes) if classes else None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"a group name occurs twice among {[name for name, _ in pairs]}")
    return found


def _is_list_of_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _check_classes(classes: list[str], vocabulary: Vocabulary, *, where: str) -> None:
    if not classes:
        raise ConfigError(f"{where}: there is no class in it; wanted at least one name.")
    known = set(vocabulary)
    unknown = [name for name in classes if name not in known]
    if unknown:
        raise ConfigError(
            f"{where}: {len(unknown)} of {len(classes)} names are not in the vocabulary of the"
            f" cache, e.g. {', '.join(map(repr, unknown[:3]))}. Write names as per_category.csv"
            " lists them."
        )
    repeated = sorted({name for name in classes if classes.count(name) > 1})
    if repeated:
        raise ConfigError(f"{where}: {repeated[0]!r} occurs twice. Remove one.")


def _plain(name: str) -> str:
    return name.replace("_", " ").casefold()
