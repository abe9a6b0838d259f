"""A tokenizer that knows whole words: the text side of CLIPs with a small, closed vocabulary.

OpenAI's byte-pair tokenizer knows 49,408 pieces; a CLIP of a few hundred kilobytes cannot spend
an embedding on each. This one follows open_clip's calling convention, so that code which embeds
texts need not know which tokenizer it was given.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

_PAD, _UNKNOWN, _FIRST_WORD = 0, 1, 2


class WordTokenizer:
    """Turn texts into word ids: pad 0, unknown 1, the words from 2, then start, then end of text.

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
