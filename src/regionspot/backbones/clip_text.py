"""Texts for an encoder: tokenizers, and the sentences that class names are put into.

Shape letters: C classes, N texts, L tokens of a text.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from regionspot.core.errors import ConfigError, VocabularyError, WeightsError
from regionspot.core.text import needs_extra


class Tokenizer(Protocol):
    """Turns N texts into token ids, (N, L) int64, with open_clip's calling convention."""

    def __call__(self, texts: list[str], context_length: int | None = None) -> Tensor:
        """Tokenize N texts.

        Args:
            texts: The texts.
            context_length: Tokens L of each, start and end included; by default those that the
                model reads. Longer texts are cut.
        """
        ...


class LazyTokenizer:
    """An open_clip model's own tokenizer, loaded with the first text.

    Most come with open_clip; others, such as SigLIP's, are downloaded from the Hugging Face hub.
    """

    def __init__(self, model: str) -> None:
        """Store the model's name in open_clip."""
        self._model = model
        self._tokenizer: Tokenizer | None = None

    def __call__(self, texts: list[str], context_length: int | None = None) -> Tensor:
        """Tokenize texts; see `Tokenizer`.

        Raises:
            MissingExtraError: The tokenizer needs ``transformers``, which is not installed.
            WeightsError: It cannot be downloaded.
        """
        if self._tokenizer is None:
            self._tokenizer = self._load()
        return self._tokenizer(texts, context_length)

    def _load(self) -> Tokenizer:
        with needs_extra("extract"):
            import open_clip
        config = open_clip.get_model_config(self._model) or {}
        hub_name = config.get("text_cfg", {}).get("hf_tokenizer_name")
        if hub_name is not None:
            with needs_extra("transformers"):
                import transformers  # noqa: F401 - open_clip's own message names no extra
        try:
            tokenizer: Tokenizer = open_clip.get_tokenizer(self._model)
        except (OSError, ValueError) as error:
            raise WeightsError(
                f"the tokenizer of CLIP {self._model} could not be loaded ({str(error)[:200]})."
                f" {copy_from_hub(hub_name)}"
            ) from error
        return tokenizer


def copy_from_hub(repository: object) -> str:
    """Return what to do if a repository of the Hugging Face hub cannot be downloaded."""
    return (
        f"Without network access, download {repository} on another machine (hf download"
        f" {repository}) and copy the folder ~/.cache/huggingface here, or set HF_HOME to its copy."
    )


_PAD, _UNKNOWN, _FIRST_WORD = 0, 1, 2


class WordTokenizer:
    """Turns texts into word ids: pad 0, unknown 1, the words from 2, then start, then end of text.

    For tiny CLIPs, which are too small for the 49,408 embeddings of OpenAI's byte-pair tokenizer.

    The end of text has the largest id, where open_clip's argmax pooling reads the text's embedding.
    Texts are lower-cased and split on whitespace; ``.`` and ``,`` are words of their own.
    """

    def __init__(self, words: Sequence[str], context_length: int) -> None:
        """Index the words.

        Args:
            words: The words in order of their ids: distinct, lower-case, without whitespace.
            context_length: Length L of every row of ids, at least 3.

        Raises:
            ValueError: The words are not distinct or can never occur, or L is too small.
        """
        if context_length < 3:
            raise ValueError(
                f"context_length is {context_length}, but start, one word and end need 3."
            )
        if len(set(words)) != len(words):
            twice = sorted({word for word in words if list(words).count(word) > 1})
            raise ValueError(f"the words {twice} are listed more than once; list each word once.")
        unreachable = [word for word in words if _split(word) != [word]]
        if unreachable:
            raise ValueError(
                f"{unreachable} can never occur, as texts are lower-cased and split at whitespace,"
                " '.' and ','; list them that way."
            )
        self._ids = {word: index for index, word in enumerate(words, start=_FIRST_WORD)}
        self.context_length = context_length
        self.start_id = len(words) + _FIRST_WORD
        self.end_id = self.start_id + 1
        self.vocab_size = self.end_id + 1

    @property
    def words(self) -> tuple[str, ...]:
        """The known words, in the order of their ids."""
        return tuple(self._ids)

    def unknown_words(self, text: str) -> list[str]:
        """Return the words of a text that get the id for unknown words, in order."""
        return [word for word in _split(text) if word not in self._ids]

    def __call__(self, texts: str | Sequence[str], context_length: int | None = None) -> Tensor:
        """Tokenize one text or N; words that do not fit are cut off, the end of text never is."""
        batch = [texts] if isinstance(texts, str) else texts
        length = self.context_length if context_length is None else context_length
        ids_NL = torch.full((len(batch), length), _PAD, dtype=torch.long)
        for row, text in zip(ids_NL, batch, strict=True):
            known = [self._ids.get(word, _UNKNOWN) for word in _split(text)][: length - 2]
            ids = [self.start_id, *known, self.end_id]
            row[: len(ids)] = torch.tensor(ids)
        return ids_NL


def _split(text: str) -> list[str]:
    return text.lower().replace(".", " . ").replace(",", " , ").split()


_READABLE, _SYNONYMS = "-readable", "-synonyms"
SLOT = "{}"
"""Where the class name goes in a sentence."""

_PLAIN_SETS = ("ensemble81", "ensemble80", "single", "none")

TEMPLATE_SETS: tuple[str, ...] = tuple(
    name + ending
    for ending in ("", _READABLE, _SYNONYMS, _READABLE + _SYNONYMS)
    for name in _PLAIN_SETS
)
"""Names of the sentences that class names are put into.

- ``ensemble81``: the paper's; the bare name with a full stop, and the next 80;
- ``ensemble80``: open_clip's ``OPENAI_IMAGENET_TEMPLATES``;
- ``single``: "a photo of a {}.";
- ``none``: the bare name.

Names are not changed, as in the training of the released heads. Each set also exists with the
ending ``-readable``, which turns underscores into spaces: "bat_(animal)" becomes "bat (animal)".
Parentheses are kept, as they distinguish LVIS classes of one name. With the ending ``-synonyms`` a
class is the mean over all its names, where a data set lists several.
"""


def check_templates(templates: str) -> None:
    """Raise a `ConfigError` if there is no such template set."""
    if templates not in TEMPLATE_SETS:
        raise ConfigError(
            f"there is no template set {templates!r}; give one of {', '.join(TEMPLATE_SETS)}."
        )


def template_texts(templates: str) -> tuple[str, ...]:
    """Return a template set's sentences, each with one ``{}`` where the class name goes.

    Raises:
        ConfigError: There is no such set.
    """
    check_templates(templates)
    plain = templates.removesuffix(_SYNONYMS).removesuffix(_READABLE)
    if plain == "none":
        return (SLOT,)
    if plain == "single":
        return (f"a photo of a {SLOT}.",)
    with needs_extra("extract"):
        from open_clip import OPENAI_IMAGENET_TEMPLATES
    imagenet = tuple(str(template(SLOT)) for template in OPENAI_IMAGENET_TEMPLATES)
    return imagenet if plain == "ensemble80" else (f"{SLOT}.", *imagenet)


def spellings(
    names: Sequence[str], templates: str, synonyms: Sequence[Sequence[str]] | None = None
) -> list[list[str]]:
    """Return all names of each class, spelled as a template set wants them.

    Args:
        names: C class names.
        templates: One of `TEMPLATE_SETS`.
        synonyms: All names of each class, its own among them; only used by the ``-synonyms`` sets.

    Raises:
        VocabularyError: There is no name, or the synonyms are not one entry a class.
    """
    if not names:
        raise VocabularyError("there is no class name to embed: give at least one.")
    if synonyms is not None and len(synonyms) != len(names):
        raise VocabularyError(
            f"there are {len(names)} class names and the synonyms of {len(synonyms)} classes;"
            " wanted those of each class, in the same order."
        )
    names_of = [[name] for name in names]
    if templates.endswith(_SYNONYMS) and synonyms is not None:
        names_of = [list(of_class) for of_class in synonyms]
    if _READABLE in templates:
        names_of = [[name.replace("_", " ") for name in of_class] for of_class in names_of]
    return names_of
