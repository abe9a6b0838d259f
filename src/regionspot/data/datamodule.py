"""The Lightning data module: feature caches in, batches out."""

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from regionspot.cache import FeatureCache, Fingerprint
from regionspot.core.errors import CacheMismatchError, ConfigError
from regionspot.core.vocabulary import Vocabulary
from regionspot.data.assembly import Assembler
from regionspot.data.loader import CacheLoader
from regionspot.data.order import IndexArray, MixedOrder, Order, SequentialOrder
from regionspot.data.spec import FeatureSpec

_LOGGER = logging.getLogger(__name__)


class CachedRegions(pl.LightningDataModule):
    """Feature caches to train on, and one to validate on.

    Every training batch comes from one cache, hence has one vocabulary. Images without regions are
    left out of training, and counted in the log.

    Args:
        train: Directories or URLs (s3://bucket/cache) of the feature caches to train on.
        val: Directory or URL of the feature cache to validate on; null for none.
        batch_size: Images of a step over all devices together; a multiple of their number.
        templates: Which of the caches' text banks to compare with, by its template set.
        max_regions_per_image: Regions of a training image used in a step at most, a random choice;
            null for all.
        ratios: How often to draw a batch from each training cache, up to a factor; null for
            equally often.
        seed: Starts the random order of the images.
        max_local_gb: Disk space, in units of 1e9 bytes, for the shards that are kept here of all
            caches behind URLs; null for $REGIONSPOT_MAX_LOCAL_GB, or 100. It should hold all of
            them: images are drawn in random order.

    Raises:
        MissingFileError: A cache is not there.
        CacheMismatchError: The caches were not all made by the same frozen models and settings.
        ConfigError: A value cannot work.
    """

    def __init__(
        self,
        train: Sequence[str | Path],
        val: str | Path | None = None,
        batch_size: int = 16,
        templates: str = "ensemble81",
        max_regions_per_image: int | None = None,
        ratios: Sequence[float] | None = None,
        seed: int = 0,
        max_local_gb: float | None = None,
    ) -> None:
        super().__init__()
        if not train or isinstance(train, (str, Path)):
            raise ConfigError(
                f"data.train is {train!r}; wanted a list with the directory of one feature cache or"
                " more."
            )
        for name, value in (
            ("batch_size", batch_size),
            ("max_regions_per_image", max_regions_per_image),
        ):
            if value is not None and value < 1:
                raise ConfigError(f"data.{name} is {value}; wanted 1 or more.")
        if seed < 0:
            raise ConfigError(f"data.seed is {seed}; wanted 0 or more.")
        self.train_caches = tuple(FeatureCache.open(x, max_local_gb=max_local_gb) for x in train)
        self.val_cache = None if val is None else FeatureCache.open(val, max_local_gb=max_local_gb)
        self.templates = templates
        self.batch_size = batch_size
        self._max_regions_per_image = max_regions_per_image
        self._seed = seed
        self._check_fingerprints()
        self._check_labels()
        self._order = MixedOrder(
            sources=[_images_with_regions(cache) for cache in self.train_caches],
            batch_size=batch_size,
            seed=seed,
            ratios=ratios,
        )

    @property
    def fingerprint(self) -> Fingerprint:
        """What made the features, the same for all caches of a run."""
        return self.train_caches[0].manifest.fingerprint

    @property
    def spec(self) -> FeatureSpec:
        """Widths of the features, from the manifest."""
        fingerprint = self.fingerprint
        return FeatureSpec(
            token_dim=fingerprint.token_dim,
            feature_dim=fingerprint.feature_dim,
            text_dim=fingerprint.text_dim,
            num_feature_tokens=fingerprint.num_feature_tokens,
        )

    @property
    def vocabularies(self) -> tuple[Vocabulary, ...]:
        """The vocabulary of each training cache."""
        return tuple(cache.manifest.vocabulary for cache in self.train_caches)

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each training cache."""
        return tuple(cache.manifest.name for cache in self.train_caches)

    @property
    def images_per_batch(self) -> float:
        """Images of a training batch over all devices, in the mean over an epoch."""
        return float(self.batch_size)

    @cached_property
    def text_banks(self) -> tuple[Tensor, ...]:
        """The text bank of each training cache, (C, E) float32."""
        return tuple(_text_bank(cache, self.templates) for cache in self.train_caches)

    @cached_property
    def val_text_bank(self) -> Tensor | None:
        """The text bank of the validation cache, (C, E) float32; None without one."""
        return None if self.val_cache is None else _text_bank(self.val_cache, self.templates)

    @override
    def setup(self, stage: str) -> None:
        """Say how many images there are to train on, and read the text banks early."""
        for cache, usable, bank in zip(
            self.train_caches, self._order.sources, self.text_banks, strict=True
        ):
            _LOGGER.info(
                "%s: %d classes, %d images to train on, %d without regions are left out",
                cache.location,
                len(bank),
                len(usable),
                len(cache) - len(usable),
            )

    @override
    def train_dataloader(self) -> CacheLoader:
        """Return random batches, each from one training cache."""
        return self._loader(self._order, self.train_caches, max_regions=self._max_regions_per_image)

    @override
    def val_dataloader(self) -> CacheLoader | list[CacheLoader]:
        """Return all images of the validation cache in order; no loader without one.

        Lightning warns of that: without a cache, give its Trainer ``limit_val_batches=0``.
        """
        if self.val_cache is None:
            return []
        order = SequentialOrder(num_images=len(self.val_cache), batch_size=self.batch_size)
        return self._loader(order, (self.val_cache,), max_regions=None)

    def _loader(
        self, order: Order, caches: Sequence[FeatureCache], *, max_regions: int | None
    ) -> CacheLoader:
        trainer = self.trainer
        rank, world_size = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        if self.batch_size % world_size:
            raise ConfigError(
                f"data.batch_size is {self.batch_size}, the images of a step over all devices; it"
                f" does not divide among {world_size} devices. Set it to a multiple."
            )
        assembler = Assembler(
            caches,
            max_regions=max_regions,
            seed=self._seed,
            pin_memory=trainer is not None and trainer.strategy.root_device.type == "cuda",
        )
        return CacheLoader(order, assembler, rank=rank, world_size=world_size)

    def _check_fingerprints(self) -> None:
        others = self.train_caches[1:] + (() if self.val_cache is None else (self.val_cache,))
        for cache in others:
            differences = cache.manifest.fingerprint.differences(self.fingerprint)
            if differences:
                raise CacheMismatchError(
                    f"{cache.location} and {self.train_caches[0].location} were not made by the"
                    f" same frozen models and settings: {'; '.join(differences)}. Make both with"
                    " one `models` section (python cache_features.py), or train on one of them."
                )

    def _check_labels(self) -> None:
        for cache in self.train_caches:
            if cache.manifest.proposals is not None:
                raise ConfigError(
                    f"{cache.location} holds proposals ({cache.manifest.proposals}), whose class"
                    " nobody knows, so a head cannot learn from it. Give data.train caches of"
                    " annotated regions (made without --proposals); evaluate.py takes this one."
                )


def _images_with_regions(cache: FeatureCache) -> IndexArray:
    images = np.flatnonzero(cache.index.num_regions).astype(np.int64)
    if len(images) == 0:
        raise ConfigError(
            f"{cache.location} holds {len(cache)} images and not one region: there is nothing to"
            " train on. Take it out of data.train."
        )
    return images


def _text_bank(cache: FeatureCache, templates: str) -> Tensor:
    bank = torch.from_numpy(np.array(cache.text_bank(templates), np.float32))
    wanted = (len(cache.manifest.vocabulary), cache.manifest.fingerprint.text_dim)
    if tuple(bank.shape) != wanted:
        raise CacheMismatchError(
            f"{cache.location}: the text bank {templates!r} has shape {tuple(bank.shape)}; the"
            f" manifest says {wanted}. Run python cache_features.py again to remake it."
        )
    return bank
