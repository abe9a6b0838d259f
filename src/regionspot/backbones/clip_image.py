"""open_clip's models as encoders.

Shape letters: B images, T tokens (the class token or its stand-in first), D CLIP's width, N texts,
E the joint text space.
"""

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor
from typing_extensions import override

from regionspot.backbones.clip_models import LoadedClip, load_clip
from regionspot.backbones.clip_text import Tokenizer
from regionspot.backbones.encoder import Encoder
from regionspot.backbones.execution import FLOAT32, Execution, keep_norms_in_float32
from regionspot.backbones.image_towers import image_tower
from regionspot.backbones.text_towers import embed_texts


class OpenClipEncoder(Encoder):
    """Any of open_clip's models, or the tiny CLIP."""

    def __init__(self, loaded: LoadedClip, *, execution: Execution = FLOAT32) -> None:
        """Wrap a CLIP, as from `load_clip`; ``execution`` is that of its image tower."""
        self.clip = loaded
        self._tower = image_tower(loaded.model.visual, name=loaded.name)
        encode = self._tower.features
        super().__init__(loaded.model, loaded, encode=encode, execution=execution)
        if execution.precision != "float32":
            keep_norms_in_float32(loaded.model.visual)

    @classmethod
    @override
    def load(cls, model: str, weights: str, *, execution: Execution = FLOAT32) -> Self:
        return cls(load_clip(model, weights), execution=execution)

    @property
    @override
    def tokenizer(self) -> Tokenizer:
        return self.clip.tokenizer

    @override
    def reference(self) -> Self:
        return type(self)(self.clip)

    @override
    def check_projects_patches(self) -> None:
        self._tower.check_projects_patches()

    @override
    @torch.no_grad()
    def project(self, features_BTD: Tensor) -> Tensor:
        """Project every token of feature maps, (B, T, D), into the text space, (B, T, E).

        CLIP itself does this only to what it pools. Where that is the first token, its row is
        CLIP's image embedding before normalisation. Other tokens are pooled as if alone.
        """
        return self._tower.project(features_BTD)

    @override
    def _embed_images(self, pixels_BCHW: Tensor) -> Tensor:
        embedding_BE: Tensor = self.clip.model.encode_image(pixels_BCHW)
        return embedding_BE

    @override
    def _embed_texts(
        self, texts: list[str], *, batch_size: int, on_batch: Callable[[int], object]
    ) -> Tensor:
        ids_NL = self.tokenizer(texts).to(self.device)
        return embed_texts(self.clip.model, ids_NL, batch_size=batch_size, on_batch=on_batch)
