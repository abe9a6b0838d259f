"""Text banks: class names to unit-norm embeddings in CLIP's text space.

Shape letters: C classes, L tokens of a text, E the joint text space.
"""

import logging
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from regionspot.backbones.text_towers import embed_texts
from regionspot.backbones.tokenizer import Tokenizer
from regionspot.core.errors import ConfigError, VocabularyError
from regionspot.core.extras import needs_extra

if TYPE_CHECKING:
    from open_clip.model import CLIP

_READABLE, _SYNONYMS = "-readable", "-synonyms"
SLOT = "{}"
"""Where the class name goes in a sentence."""

_BATCHES_SORTED_AT_ONCE = 8
_SECONDS_WORTH_A_BAR = 2.0
_TEXTS_WORTH_A_LOG = 2_000
_logger = logging.getLogger(__name__)
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

Names go in as they are, since that is how the released heads were trained. Each set also exists
with ``-readable`` at its end, which turns underscores into spaces: "bat_(animal)" becomes
"bat (animal)". What is in parentheses stays, as it tells LVIS classes of one name apart. With
``-synonyms`` at the end a class is the mean over all its names, where a data set lists several.
"""


def check_templates(templates: str) -> None:
    """Refuse the name of a template set that there is not.

    Raises:
        ConfigError: There is no such set.
    """
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
    """Return all names of each class, spelled as a template set puts them into its sentences.

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


@torch.no_grad()
def text_bank(
    clip: "CLIP",
    tokenizer: Tokenizer,
    names: Sequence[str],
    templates: str = "ensemble81",
    *,
    synonyms: Sequence[Sequence[str]] | None = None,
    batch_size: int = 256,
) -> Tensor:
    """Embed class names, averaged over the sentences of a template set.

    The raw embeddings of a name's sentences are averaged, then normalised once, as the paper's code
    does. (Normalising each of them first, as zero-shot classifiers often do, gives numbers 2 %
    away.)

    Args:
        clip: An open_clip model.
        tokenizer: Its tokenizer.
        names: C class names.
        templates: One of `TEMPLATE_SETS`.
        synonyms: All names of each class, its own among them; only used by the ``-synonyms`` sets,
            for which a class is its one name if this is None.
        batch_size: Texts encoded at once, about; the result does not depend on it.

    Returns:
        (C, E) float32, unit norm, on CLIP's device; row i belongs to name i.

    Raises:
        ConfigError: There is no such template set.
        VocabularyError: There is no name, or the synonyms are not one entry a class.
    """
    sentences = template_texts(templates)
    names_of = spellings(names, templates, synonyms)
    device = clip.logit_scale.device
    step = max(1, _BATCHES_SORTED_AT_ONCE * batch_size // len(sentences))
    rows = []
    num_texts = len(sentences) * sum(map(len, names_of))
    if num_texts >= _TEXTS_WORTH_A_LOG:
        _logger.info("embedding %d class names as %d texts", len(names), num_texts)
    # `disable=None` keeps log files free of progress bars.
    bar = tqdm(
        desc=f"embedding {len(names):,} names",
        total=num_texts,
        unit=" texts",
        disable=None,
        delay=_SECONDS_WORTH_A_BAR,
    )
    for start in range(0, len(names), step):
        group = names_of[start : start + step]
        # Not str.format: a name may hold braces itself.
        texts_of = [
            [sentence.replace(SLOT, name) for name in of_class for sentence in sentences]
            for of_class in group
        ]
        texts = list(chain.from_iterable(texts_of))
        ids_NL = tokenizer(texts).to(device)
        embedded = embed_texts(clip, ids_NL, batch_size=batch_size, on_batch=bar.update)
        rows += [of_class.mean(dim=0) for of_class in embedded.split(list(map(len, texts_of)))]
    bar.close()
    return F.normalize(torch.stack(rows), dim=-1)
