"""The folder ``head/`` of a run: the trained head with the text bank of its names.

The bank comes from the training caches, so that the names of the training need not be embedded
again for recognition. It is identified by names, templates and CLIP, on which alone it depends.
"""

from pathlib import Path

import torch
from torch import Tensor

from regionspot.cache import TextBankStore, text_banks_path
from regionspot.core.vocabulary import Vocabulary
from regionspot.data import CachedRegions
from regionspot.model import TrainedHead, save_trained_head


def export_head(output_dir: Path, trained: TrainedHead, data: CachedRegions) -> None:
    """Write ``head.safetensors``, ``head.json`` and ``text_banks.h5``.

    The last one is a file as in a cache (docs/cache_format.md) with one bank, of the names in the
    card, 4 bytes a name and text dimension: 3.7 MB for the 1,203 names of LVIS at a width of 768,
    40 MB for the 13,029 of V3Det. A name of several caches has the embedding of the first.

    Args:
        output_dir: The folder to write to; created if necessary.
        trained: The head, as `RegionSpotModule.trained_head` returns it.
        data: What it was trained on.
    """
    banks = TextBankStore(text_banks_path(output_dir))
    banks.path.unlink(missing_ok=True)  # that of a former run
    save_trained_head(output_dir, trained)
    row_of: dict[str, Tensor] = {}
    for vocabulary, bank_CE in zip(data.vocabularies, data.text_banks, strict=True):
        for name, row in zip(vocabulary, bank_CE, strict=True):
            row_of.setdefault(name, row)
    names = trained.card.vocabulary
    banks.put(
        Vocabulary(names),
        torch.stack([row_of[name] for name in names]).numpy(),
        templates=data.templates,
        clip_sha256=data.fingerprint.text_encoder_sha256,
    )
