"""Text banks: class names to unit-norm embeddings in CLIP's text space.

Shape letters: C classes, L tokens of a text, E the joint text space.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from regionspot.backbones.clip_registry import Tokenizer
from regionspot.backbones.extras import needs_extra
from regionspot.core.errors import ConfigError, VocabularyError

if TYPE_CHECKING:
    from open_clip.model import CLIP

_READABLE = "-readable"
_SLOT = "{}"
_PLAIN_SETS = ("ensemble81", "ensemble80", "single", "none")

TEMPLATE_SETS: tuple[str, ...] = (*_PLAIN_SETS, *(name + _READABLE for name in _PLAIN_SETS))
"""Names of the sentences that class names are put into.

- ``ensemble81``: the paper's; the bare name with a full stop, and the next 80;
- ``ensemble80``: open_clip's ``OPENAI_IMAGENET_TEMPLATES``;
- ``single``: "a photo of a {}.";
- ``none``: the bare name.

Names go in as they are, since that is how the released heads were trained. Each set also exists
with ``-readable`` at its end, which turns underscores into spaces: "bat_(animal)" becomes
"bat (animal)". What is in parentheses stays, as it tells LVIS classes of one name apart.
"""


def template_texts(templates: str) -> tuple[str, ...]:
    """Return a template set's sentences, each with one ``{}`` where the class name goes.

    Raises:
        ConfigError: There is no such set.
    """
    if templates not in TEMPLATE_SETS:
        raise ConfigError(
            f"there is no template set {templates!r}; give one of {', '.join(TEMPLATE_SETS)}."
        )
    plain = templates.removesuffix(_READABLE)
    if plain == "none":
        return (_SLOT,)
    if plain == "single":
        return (f"a photo of a {_SLOT}.",)
    with needs_extra("extract"):
        from open_clip import OPENAI_IMAGENET_TEMPLATES
    imagenet = tuple(str(template(_SLOT)) for template in OPENAI_IMAGENET_TEMPLATES)
    return imagenet if plain == "ensemble80" else (f"{_SLOT}.", *imagenet)


@torch.no_grad()
def text_bank(
    clip: "CLIP",
    tokenizer: Tokenizer,
    names: Sequence[str],
    templates: str = "ensemble81",
    *,
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
        batch_size: Texts encoded at once, about; the result does not depend on it.

    Returns:
        (C, E) float32, unit norm, on CLIP's device; row i belongs to name i.

    Raises:
        ConfigError: There is no such template set.
        VocabularyError: There is no name.
    """
    if not names:
        raise VocabularyError("there is no class name to embed: give at least one.")
    sentences = template_texts(templates)
    if templates.endswith(_READABLE):
        names = [name.replace("_", " ") for name in names]
    device = clip.logit_scale.device
    step = max(1, batch_size // len(sentences))
    rows = []
    for start in range(0, len(names), step):
        group = names[start : start + step]
        # Not str.format: a name may hold braces itself.
        texts = [sentence.replace(_SLOT, name) for name in group for sentence in sentences]
        embedded = torch.cat(
            [
                # CoCa would normalise each, if not told otherwise.
                clip.encode_text(
                    tokenizer(texts[first : first + batch_size]).to(device), normalize=False
                ).float()
                for first in range(0, len(texts), batch_size)
            ]
        )
        rows.append(embedded.unflatten(0, (len(group), len(sentences))).mean(dim=1))
    return F.normalize(torch.cat(rows), dim=-1)
