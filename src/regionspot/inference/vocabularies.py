"""The names to choose from: read from what a person gives, and embedded once."""

from collections import OrderedDict
from collections.abc import Iterable

from torch import Tensor

from regionspot.backbones import FrozenModels
from regionspot.core.errors import VocabularyError
from regionspot.core.vocabulary import Vocabulary

_NUM_KEPT_BANKS = 16


def as_vocabulary(names: Vocabulary | Iterable[str]) -> Vocabulary:
    """Read a vocabulary.

    Raises:
        VocabularyError: It is one text, empty, or holds an empty or repeated name.
    """
    if isinstance(names, Vocabulary):
        return names
    if isinstance(names, str):
        raise VocabularyError(
            f"the vocabulary is the text {names!r}; wanted a list of names, for instance"
            f" {[name.strip() for name in names.split(',')]}."
        )
    return Vocabulary.from_names(names)


class TextBanks:
    """Embeddings of vocabularies, of which those that were asked for lately stay in memory.

    Args:
        models: The frozen models, whose CLIP embeds the names.
    """

    def __init__(self, models: FrozenModels) -> None:
        self._models = models
        self._kept: OrderedDict[tuple[str, str], Tensor] = OrderedDict()

    def embed(self, vocabulary: Vocabulary, *, templates: str) -> Tensor:
        """Return the vocabulary's embeddings, (C, E) float32, unit norm.

        Raises:
            ConfigError: The templates are unknown.
        """
        key = (vocabulary.sha256, templates)
        if key not in self._kept:
            self._kept[key] = self._models.text_bank(vocabulary, templates=templates)
        self._kept.move_to_end(key)
        while len(self._kept) > _NUM_KEPT_BANKS:
            self._kept.popitem(last=False)
        return self._kept[key]
