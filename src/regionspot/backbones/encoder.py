"""The encoder: a frozen image-text model, from pixels to feature maps and from names to embeddings.

``clip.py`` implements it for open_clip. A new kind of encoder is a subclass and a row of
`ENCODERS` in ``frozen.py``.

Shape letters: B images, T tokens (the class token or its stand-in first), D width of the feature
map, C classes, N texts, E the joint text space.
"""

import logging
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm
from typing_extensions import override

from regionspot.backbones.clip_text import SLOT, Tokenizer, spellings, template_texts
from regionspot.backbones.execution import FLOAT32, Encode, Execution
from regionspot.backbones.frozen_model import FrozenModel
from regionspot.backbones.image_towers import FirstToken
from regionspot.backbones.name_tokens import NameFindings, examine_names
from regionspot.core.errors import ConfigError

Rgb = tuple[float, float, float]

_BATCHES_SORTED_AT_ONCE = 8
_SECONDS_WORTH_A_BAR = 2.0
_TEXTS_WORTH_A_LOG = 2_000
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderInfo:
    """Properties of an encoder; most are part of a cache's fingerprint."""

    name: str
    """Name of the model."""
    image_size: int
    """Side of the square input in pixels."""
    activation: str
    """Activation function of its blocks, such as "gelu"."""
    mean: Rgb
    """Mean of red, green and blue, 0 to 1, that normalises the input."""
    std: Rgb
    """Their standard deviation."""
    width: int
    """Width D of the feature map."""
    text_dim: int
    """Width E of the joint text space."""
    num_tokens: int
    """Tokens T of a feature map: the first token and the patches."""
    first_token: FirstToken
    """What the first token is: the class token, or the pooled embedding in its place."""
    logit_scale: float
    """Factor by which cosines of image and text embeddings become logits."""


class Encoder(FrozenModel):
    """A frozen image-text model with its preprocessing."""

    resize_rule: ClassVar[str] = "squash without crop, bilinear antialias uint8 (PIL)"
    """How images become the model's input; part of a cache's fingerprint. open_clip's own transform
    crops the ends of an image, where regions may lie."""

    def __init__(
        self,
        module: nn.Module,
        info: EncoderInfo,
        *,
        encode: Encode,
        execution: Execution = FLOAT32,
    ) -> None:
        """Store what every encoder has.

        Args:
            module: The model, frozen, in eval mode.
            info: Properties of the model.
            encode: Runs the image side on preprocessed images, (B, 3, H, W), on the model's device:
                feature maps, (B, T, D).
            execution: How the forward passes of the image side are run.
        """
        super().__init__(module, execution=execution)
        self.info = info
        self._encode = execution.compiled(encode)

    @override
    def frame_size_hw(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        return self.info.image_size, self.info.image_size

    @override
    def normalise(self, resized: Tensor) -> Tensor:
        return self._standardised(resized, self.info.mean, self.info.std)

    # --- Images --------------------------------------------------------------------------------

    @torch.no_grad()
    def features(self, pixels_BCHW: Tensor) -> Tensor:
        """Return the feature maps, (B, T, D) float32, of preprocessed images (B, 3, H, W)."""
        pixels_BCHW = pixels_BCHW.to(self.device)
        with self.execution.autocast(self.device):
            return self.execution.encode_in_batches(self._encode, pixels_BCHW).float()

    @torch.no_grad()
    def embed_images(self, pixels_BCHW: Tensor) -> Tensor:
        """Return the embeddings, (B, E) float32, unit norm, of preprocessed images (B, 3, H, W)."""
        with self.execution.autocast(self.device):
            embedding_BE = self._embed_images(pixels_BCHW.to(self.device))
        return F.normalize(embedding_BE.float(), dim=-1)

    def check_projects_patches(self) -> None:
        """Raise a `ConfigError` if `project` does not work with this model, as by default."""
        raise ConfigError(
            f"the encoder {self.info.name} ({type(self).__name__}) cannot project single patches"
            " into its text space, as the method pooled_patches needs. Leave that method out"
            " (--methods)."
        )

    def project(self, features_BTD: Tensor) -> Tensor:  # noqa: ARG002 - for those that can
        """Project every token of feature maps, (B, T, D), into the text space, (B, T, E).

        The rows are not normalised.
        """
        self.check_projects_patches()
        raise NotImplementedError

    # --- Names ---------------------------------------------------------------------------------

    @torch.no_grad()
    def text_bank(
        self,
        names: Sequence[str],
        templates: str = "ensemble81",
        *,
        synonyms: Sequence[Sequence[str]] | None = None,
        batch_size: int = 256,
    ) -> Tensor:
        """Embed class names, averaged over the sentences of a template set.

        The raw embeddings of a name's sentences are averaged, then normalised once, as in the
        paper's code. Normalising each of them first, as zero-shot classifiers often do, changes the
        numbers by 2 %.

        Args:
            names: C class names.
            templates: One of `TEMPLATE_SETS`.
            synonyms: All names of each class, its own among them; used by the ``-synonyms`` sets
                only. None gives each class its one name.
            batch_size: Approximate number of texts encoded at once; does not affect the result.

        Returns:
            (C, E) float32, unit norm, on the model's device; row i belongs to name i.

        Raises:
            ConfigError: There is no such template set.
            VocabularyError: There is no name, or the synonyms are not one entry a class.
        """
        sentences = template_texts(templates)
        names_of = spellings(names, templates, synonyms)
        step = max(1, _BATCHES_SORTED_AT_ONCE * batch_size // len(sentences))
        banks = []
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
            # Not str.format: a name may hold braces itself.
            texts_of = [
                [sentence.replace(SLOT, name) for name in of_class for sentence in sentences]
                for of_class in names_of[start : start + step]
            ]
            texts = list(chain.from_iterable(texts_of))
            embedded = self._embed_texts(texts, batch_size=batch_size, on_batch=bar.update)
            means = [of_class.mean(dim=0) for of_class in embedded.split(list(map(len, texts_of)))]
            banks.append(F.normalize(torch.stack(means), dim=-1))
        bar.close()
        return torch.cat(banks)

    def examine_names(
        self,
        names: Sequence[str],
        templates: str = "ensemble81",
        *,
        synonyms: Sequence[Sequence[str]] | None = None,
    ) -> NameFindings:
        """Find names that the tokenizer does not know, cuts or maps to the same tokens.

        Does not run the model. Arguments and errors are those of `text_bank`.
        """
        return examine_names(
            self.tokenizer,
            names,
            templates,
            synonyms=synonyms,
            encoder=f"the encoder {self.info.name}",
        )

    # --- What an implementation provides -------------------------------------------------------

    @classmethod
    @abstractmethod
    def load(cls, model: str, weights: str, *, execution: Execution = FLOAT32) -> Self:
        """Load a model on the CPU in float32.

        Args:
            model: Name of the model (option ``models.clip``).
            weights: Which weights (option ``models.clip_weights``).
            execution: How the forward passes of its image side are run.

        Raises:
            ConfigError: There is no such model.
            WeightsError: The weights are unknown or unavailable, or do not fit the model.
            MissingFileError: The weights file does not exist.
            MissingExtraError: A package that it needs is not installed.
        """

    @property
    @abstractmethod
    def tokenizer(self) -> Tokenizer:
        """Texts to token ids."""

    @abstractmethod
    def _embed_images(self, pixels_BCHW: Tensor) -> Tensor:
        """Embed preprocessed images on the model's device, (B, E), normalised or not."""

    @abstractmethod
    def _embed_texts(
        self, texts: list[str], *, batch_size: int, on_batch: Callable[[int], object]
    ) -> Tensor:
        """Embed N texts on the model's device, (N, E) float32, not normalised.

        Args:
            texts: N texts.
            batch_size: Approximate number of texts to encode at once.
            on_batch: To be called after each batch with the number of its texts.
        """
