"""The texts of one training step of the CLIP tower, and the losses that compare them with pictures.

Four kinds of text take part: frames around class names and around parts of them ("red heart",
"heart"), the setting, and captions that say what is where. Which text is true of which picture is
known from the scene, as it is to a caption's author; the model is never told where a thing is.
Shape letters: ``B`` pictures, ``N`` texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from regionspot.toy import COLOURS, SETTINGS, SHAPES, TEXTURES, THINGS, vocabulary
from toy_towers.captions import PlacedCaption, placed_caption, setting_caption, template
from toy_towers.views import View

_NUM_CLASSES, _NUM_PAIRS, _NUM_PLACED = 112, 24, 24
_NAMES = vocabulary()
_PAIRS = tuple(f"{first} {shape}" for first in (*COLOURS, *TEXTURES) for shape in SHAPES)
_OUTLINES = (*SHAPES, *THINGS)
_IMPOSSIBLE = -1e4


@dataclass(frozen=True, slots=True, kw_only=True)
class Phrases:
    """Texts that exclude each other to some degree, and where they apply."""

    texts: tuple[str, ...]
    """N texts."""
    is_true: Tensor
    """Whether a text is true of a picture, (B, N) bool."""
    is_doubtful: Tensor
    """Whether a text is neither true nor false of a picture, (B, N) bool."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Captions:
    """Captions with their false twins, one pair for each of some pictures."""

    true: tuple[str, ...]
    """N captions."""
    false: tuple[str, ...]
    """N twins."""
    pictures: tuple[int, ...]
    """The picture of each pair, N indexes into the batch."""


def draw_phrases(views: Sequence[View], rng: np.random.Generator) -> list[Phrases]:
    """Write the step's phrases: names and pairs of attributes; outlines; settings.

    Args:
        views: The pictures.
        rng: Chooses phrases and frames.

    Returns:
        Three groups; each is a contest of its own, so that the hard ones (outlines) are not
        drowned out by the easy ones.
    """
    names = [_NAMES[i] for i in rng.choice(len(_NAMES), _NUM_CLASSES, replace=False)]
    pairs = [_PAIRS[i] for i in rng.choice(len(_PAIRS), _NUM_PAIRS, replace=False)]
    settings = Phrases(
        texts=tuple(setting_caption(rng, setting) for setting in SETTINGS),
        is_true=torch.tensor([[s == view.setting for s in SETTINGS] for view in views]),
        is_doubtful=torch.zeros(len(views), len(SETTINGS), dtype=torch.bool),
    )
    return [_phrases(views, [*names, *pairs], rng), _phrases(views, _OUTLINES, rng), settings]


def _phrases(views: Sequence[View], phrases: Sequence[str], rng: np.random.Generator) -> Phrases:
    seen = _is_said([[one.name for one in view.objects] for view in views], phrases)
    doubtful = _is_said([view.doubtful for view in views], phrases)
    return Phrases(
        texts=tuple(template(rng).format(phrase) for phrase in phrases),
        is_true=seen,
        is_doubtful=doubtful & ~seen,
    )


def _is_said(names: Sequence[Sequence[str]], phrases: Sequence[str]) -> Tensor:
    """Tell whether a phrase's words all belong to one of a picture's names; (B, N) bool."""
    words = [set(phrase.split()) for phrase in phrases]
    return torch.tensor(
        [[any(one <= set(name.split()) for name in picture) for one in words] for picture in names]
    )


def draw_captions(views: Sequence[View], rng: np.random.Generator) -> Captions:
    """Write placed captions for the first pictures that allow one.

    Args:
        views: The pictures.
        rng: Chooses objects and wording.

    Returns:
        At most 24 pairs.
    """
    written: list[tuple[int, PlacedCaption]] = []
    for picture, view in enumerate(views):
        pair = placed_caption(rng, view.objects) if len(written) < _NUM_PLACED else None
        if pair is not None:
            written.append((picture, pair))
    return Captions(
        true=tuple(pair.true for _, pair in written),
        false=tuple(pair.false for _, pair in written),
        pictures=tuple(picture for picture, _ in written),
    )


def phrase_loss(logits_BN: Tensor, phrases: Phrases) -> Tensor:
    """Contrast pictures with phrases in both directions, several of which may be true.

    Args:
        logits_BN: Scaled similarities.
        phrases: What is true and what is doubtful.

    Returns:
        A scalar; texts that look for their pictures count half.
    """
    true, doubtful = phrases.is_true, phrases.is_doubtful
    return _contrast(logits_BN, true, doubtful) + 0.5 * _contrast(logits_BN.T, true.T, doubtful.T)


def _contrast(logits: Tensor, is_true: Tensor, is_doubtful: Tensor) -> Tensor:
    """Average, over true entries, of -log softmax against the false entries of the row."""
    false = logits.masked_fill(is_true | is_doubtful, _IMPOSSIBLE).logsumexp(1, keepdim=True)
    losses = (torch.logaddexp(false, logits) - logits) * is_true
    num_true = is_true.sum(dim=1)
    rows = num_true > 0
    return (losses.sum(dim=1)[rows] / num_true[rows]).mean()


def caption_loss(logits_NM: Tensor) -> Tensor:
    """Match pictures with captions, and tell each caption from its false twin.

    Args:
        logits_NM: Scaled similarities of the N pictures that have captions with the N true
            captions followed by the N false ones, (N, 2 N).

    Returns:
        A scalar.
    """
    num = len(logits_NM)
    target = torch.arange(num)
    by_picture = F.cross_entropy(logits_NM, target)
    by_text = F.cross_entropy(logits_NM[:, :num].T, target)
    twins = torch.stack([logits_NM[target, target], logits_NM[target, target + num]], dim=1)
    binding = F.cross_entropy(twins, torch.zeros_like(target))
    return 0.25 * (by_picture + by_text) + 0.25 * binding
