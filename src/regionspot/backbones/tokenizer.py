"""Tokenizers: those of open_clip's models, and one that knows whole words, for tiny CLIPs.

All follow open_clip's calling convention, so that code which embeds texts need not know which one
it was given.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from regionspot.core.errors import WeightsError
from regionspot.core.extras import needs_extra


class Tokenizer(Protocol):
    """Turns N texts into token ids, (N, L) int64, as all tokenizers of open_clip do."""

    def __call__(self, texts: list[str], context_length: int | None = None) -> Tensor:
        """Tokenize texts.

        Args:
            texts: N texts.
            context_length: Tokens L of each, start and end included; None takes what the CLIP
                reads. Longer texts are cut.
        """
        ...


_PAD, _UNKNOWN, _FIRST_WORD = 0, 1, 2


class LazyTokenizer:
    """An open_clip model's own tokenizer, fetched when the first text comes.

    Most come with open_clip; those of SigLIP and its kin are downloaded from the Hugging Face hub.
    """

    def __init__(self, model: str) -> None:
        """Remember the model, by open_clip's name."""
        self._model = model
        self._tokenizer: Tokenizer | None = None

    def __call__(self, texts: list[str], context_length: int | None = None) -> Tensor:
        """Tokenize texts.

        Args:
            texts: N texts.
            context_length: Tokens of each; None takes what the CLIP reads.

        Raises:
            MissingExtraError: The tokenizer needs ``transformers``, which is not installed.
            WeightsError: It cannot be downloaded.
        """
        if self._tokenizer is None:
            self._tokenizer = self._fetch()
        return self._tokenizer(texts, context_length)

    def _fetch(self) -> Tokenizer:
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
                f"the tokenizer of CLIP {self._model} could not be had ({str(error)[:200]}). Where"
                f" there is no network, download {hub_name} elsewhere (hf download {hub_name}) and"
                " copy the folder ~/.cache/huggingface here, or set HF_HOME to where it lies."
            ) from error
        return tokenizer


class WordTokenizer:
    """Turn texts into word ids: pad 0, unknown 1, the words from 2, then start, then end of text.

    OpenAI's byte-pair tokenizer knows 49,408 pieces; a CLIP of a few hundred kilobytes cannot spend
    an embedding on each.

    The end of text has the largest id, which is where open_clip's argmax pooling reads the text's
    embedding. Texts are lower-cased and split on whitespace; ``.`` and ``,`` stand for themselves,
    whether or not a space precedes them.
    """

    def __init__(self, words: Sequence[str], context_length: int) -> None:
        """Index the words.

        Args:
            words: The known words in order of their ids: distinct, lower-case, without whitespace.
            context_length: Length L of every row of ids, at least 3.

        Raises:
            ValueError: The words are not distinct, could never be met, or L is too short.
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
                f"{unreachable} would never be met, as texts are lower-cased and split at"
                f" whitespace, '.' and ','; list them that way."
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
        """Return the words of a text that all become the one unknown id, in order."""
        return [word for word in _split(text) if word not in self._ids]

    def __call__(self, texts: str | Sequence[str], context_length: int | None = None) -> Tensor:
        """Tokenize texts; words that do not fit are cut off, the end of text never is.

        Args:
            texts: One text or N of them.
            context_length: Length L of the rows, at least 3; None takes the tokenizer's own.

        Returns:
            Ids, (N, L) int64, padded with 0; (0, L) for no texts.
        """
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
