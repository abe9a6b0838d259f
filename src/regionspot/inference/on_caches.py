"""The methods of `RegionSpot` that work on feature caches, and its choice of names."""

from collections.abc import Iterable
from pathlib import Path

import torch

from regionspot.backbones import FrozenModels, SameTokens
from regionspot.cache import FeatureCache
from regionspot.core.errors import ConfigError
from regionspot.core.vocabulary import Vocabulary
from regionspot.inference.calibration import Calibration, calibrate_on_cache
from regionspot.inference.hits import ALL_REGIONS, Hit, RegionFilter
from regionspot.inference.inputs import as_count
from regionspot.inference.pretrained import Pretrained
from regionspot.inference.prototypes import Prototypes, cache_prototypes
from regionspot.inference.region_index import RegionIndex
from regionspot.inference.text_banks import ChosenNames, TextBanks, as_vocabulary
from regionspot.model import TrainedHead


class OnCaches(Pretrained):
    """A head and its frozen models, at work on feature caches, without pixels.

    Args:
        trained_head: As in `RegionSpot`.
        models: As in `RegionSpot`.
    """

    def __init__(self, trained_head: TrainedHead, models: FrozenModels) -> None:
        super().__init__(trained_head, models)
        self._banks = TextBanks(models.encoder, models.fingerprint(), trained_head.folder)

    def choose_names(
        self,
        vocabulary: Vocabulary | Iterable[str] | None = None,
        *,
        templates: str | None = None,
        same_tokens: SameTokens = "keep",
    ) -> ChosenNames:
        """Check names to choose from; arguments and errors as in `RegionSpot.recognize`.

        Returns:
            The names, with their embeddings (``bank_CE``), which are computed on first use.
        """
        names = self.vocabulary if vocabulary is None else as_vocabulary(vocabulary)
        return self._banks.choose(
            names, templates=self._templates(templates), same_tokens=same_tokens
        )

    def search(
        self,
        index: RegionIndex | Path | str,
        words: str,
        *,
        top: int = 20,
        only: RegionFilter = ALL_REGIONS,
    ) -> list[Hit]:
        """Find the regions of a cache that words describe, with the CLIP that is already loaded.

        Args:
            index: The region index of this head on the cache, or its folder.
            words: A name or a short description.
            top: Number of hits, best first.
            only: Which regions may be found.

        Raises:
            CacheMismatchError: The index is of another head.
            As `RegionIndex.open` and `RegionIndex.search`.
        """
        opened = index if isinstance(index, RegionIndex) else RegionIndex.open(index)
        opened.check_head(self._trained_head.sha256)
        return opened.search(words, top=top, only=only, banks=self._banks)

    def prototypes_from_cache(
        self,
        cache: FeatureCache,
        *,
        names: Iterable[str] | None = None,
        max_examples: int | None = None,
    ) -> Prototypes:
        """Take labelled regions of a cache as examples of their names.

        Args:
            cache: A cache of annotated boxes, made by the same SAM and CLIP.
            names: Names from the cache's vocabulary; None takes all that have regions.
            max_examples: Number of regions of each name, the first ones; None takes all.

        Raises:
            VocabularyError: A name is not in the cache's vocabulary, or has no regions.
            CacheMismatchError: The cache was made by other models.
            ConfigError: The cache has regions without labels.
        """
        if max_examples is not None:
            as_count(max_examples, name="max_examples")
        return cache_prototypes(
            self._trained_head,
            cache,
            names=names,
            max_examples=max_examples,
            device=self._models.encoder.device,
        )

    @torch.inference_mode()
    def calibrate(
        self,
        cache: FeatureCache,
        *,
        vocabulary: Vocabulary | Iterable[str] | None = None,
        templates: str | None = None,
        target_precision: float = 0.9,
        max_images: int = 5000,
    ) -> Calibration:
        """Measure on a labelled cache when a name can be trusted.

        Args:
            cache: A cache of annotated boxes, made by the same SAM and CLIP; best of images that
                the head was not trained on.
            vocabulary: The names that recognition will choose from; None takes the cache's. Regions
                with other labels count as unknown: whatever they are called is wrong.
            templates: As in `RegionSpot.recognize`; the cache must have a text bank of them.
            target_precision: Share of right names among those given.
            max_images: Number of images, spread evenly over a larger cache. Their regions' logits
                are held in memory, 4 bytes for each region and name.

        Returns:
            The lowest thresholds with this precision, for ``recognize(..., unknown="background",
            calibration=...)``, and the levels that examples need beside words.

        Raises:
            ConfigError: The cache has too few regions, or some without labels; or the precision is
                not above 0 and up to 1.
            CacheMismatchError: The cache was made by other models.
            MissingFileError: The cache has no text bank of these templates.
        """
        chosen = self._templates(templates)
        labelled = cache.manifest.vocabulary
        words = self.choose_names(labelled if vocabulary is None else vocabulary, templates=chosen)
        return calibrate_on_cache(
            self._trained_head,
            cache,
            words,
            templates=chosen,
            target_precision=target_precision,
            max_images=as_count(max_images, name="max_images"),
            device=self._models.encoder.device,
        )

    def _templates(self, templates: str | None) -> str:
        """Return the templates given, or those of training."""
        chosen = templates or self._trained_head.card.templates
        if not chosen:
            raise ConfigError(
                "the head's card does not name the templates of its training: give them, for"
                " example templates='ensemble81'."
            )
        return chosen
