"""The Lightning data module: loaders for feature caches."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import lightning.pytorch as pl
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from regionspot.cache import FeatureCache, Fingerprint, refuse_differences
from regionspot.core.errors import CacheMismatchError, ConfigError
from regionspot.core.text import human_bytes
from regionspot.core.vocabulary import Vocabulary
from regionspot.data.batch_order import (
    IndexArray,
    MixedBatchSampler,
    Order,
    OrderOptions,
    SequentialOrder,
    batch_sizes_of,
    training_order,
)
from regionspot.data.collate import Collator
from regionspot.data.loader import CacheLoader


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSpec:
    """Widths of cached features, as read from the manifest."""

    token_dim: int
    """Width of the position tokens (S)."""
    feature_dim: int
    """Width of the feature map (D)."""
    text_dim: int
    """Width of the text banks (E)."""


_LOGGER = logging.getLogger(__name__)


def warn_of_little_room(caches: Sequence[FeatureCache], shuffle_window: int | None) -> None:
    """Warn if the disk limit makes training download shards of remote caches repeatedly."""
    tar_bytes = [cache.index.tar_bytes for cache in caches if cache.is_remote]
    if not tar_bytes:
        return
    limit_bytes = caches[0].limit_bytes
    all_bytes = sum(int(shards.sum()) for shards in tar_bytes)
    if all_bytes <= limit_bytes:
        return
    bytes_by_window = _bytes_of_two_windows(tar_bytes)
    advice = "Raise data.max_local_gb if the disk has more space"
    if fitting := int(np.searchsorted(bytes_by_window, limit_bytes, side="right")):
        advice += f", or draw from fewer shards at a time: --data.shuffle_window {fitting}"
    if shuffle_window is None:
        _LOGGER.warning(
            "The training caches behind URLs have %s of shards, but only %s are kept locally: in"
            " random order, shards are downloaded again and again. %s.",
            *(human_bytes(all_bytes), human_bytes(limit_bytes), advice),
        )
    elif shuffle_window > fitting:
        _LOGGER.warning(
            "With data.shuffle_window %d, the current and the next shards take up to %s, but only"
            " %s are kept locally: some shards are downloaded twice. %s.",
            shuffle_window,
            *map(human_bytes, (int(bytes_by_window[:shuffle_window][-1]), limit_bytes)),
            advice,
        )


def _bytes_of_two_windows(tar_bytes: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return the maximum bytes of two windows of each cache, for windows of 1, 2, 3, ... shards."""
    num_shards = 2 * np.arange(1, -(-max(map(len, tar_bytes)) // 2) + 1)
    totals = np.zeros(len(num_shards), np.int64)
    for shards in tar_bytes:
        of_largest = np.sort(shards)[::-1].cumsum()
        totals += of_largest[np.minimum(num_shards, len(shards)) - 1]
    return totals


class CachedRegions(pl.LightningDataModule):
    """Feature caches for training and validation.

    Every training batch comes from one cache and therefore has one vocabulary. Images without
    regions are not used for training; their number is logged.

    Args:
        train: Folders or URLs (s3://bucket/cache) of the feature caches to train on.
        val: Folder or URL of the feature cache to validate on. null disables validation.
        batch_size: Number of images in a step over all devices, a multiple of the number of
            devices; or a list with a number for each training cache. The last batch of a pass
            through a cache may be smaller.
        templates: Template set of the text banks to classify with.
        max_regions_per_image: Maximum number of regions per training image. If there are more, a
            random choice is used in each step. null uses all.
        ratios: Relative frequency of batches from each training cache. by_size uses every image of
            all caches once per epoch. null draws from all caches equally often.
        seed: Random seed for the order of the images.
        max_local_gb: Maximum disk space in GB (1e9 bytes) for local copies of the shards of all
            caches behind URLs; null for $REGIONSPOT_MAX_LOCAL_GB, or 100. Should hold all shards,
            since images are drawn in random order; or, with shuffle_window, twice that many shards
            of each cache.
        shuffle_window: Draw images from this many shards at a time, for disks with slow random
            access and for caches behind URLs that exceed max_local_gb. Batches are then less
            random, as all their images are from these shards. The next shards are read meanwhile,
            so memory should hold twice this number. null draws from all shards.
        repeat_threshold: Draw images of rare classes more often, by repeat factor sampling: a class
            in a fraction f of the images of a cache is drawn sqrt(repeat_threshold / f) times as
            often, if that is above 1 (LVIS: 0.001). null draws all images equally often.

    Raises:
        MissingFileError: There is no cache at a path.
        CacheMismatchError: The caches were made with different models or settings.
        ConfigError: An option is invalid.
    """

    def __init__(  # noqa: PLR0913 - the options of the command line
        self,
        train: Sequence[str | Path],
        val: str | Path | None = None,
        batch_size: int | Sequence[int] = 16,
        templates: str = "ensemble81",
        max_regions_per_image: int | None = None,
        ratios: Sequence[float] | Literal["by_size"] | None = None,
        seed: int = 0,
        max_local_gb: float | None = None,
        shuffle_window: int | None = None,
        repeat_threshold: float | None = None,
    ) -> None:
        super().__init__()
        if not train or isinstance(train, (str, Path)):
            raise ConfigError(
                f"data.train is {train!r}; wanted a list of the folders of one or more feature"
                f" caches: --data.train '[{train or 'caches/mine'}]'"
            )
        if max_regions_per_image is not None and max_regions_per_image < 1:
            raise ConfigError(
                f"data.max_regions_per_image is {max_regions_per_image}; wanted 1 or more."
            )
        self._order_options = OrderOptions(
            batch_sizes=batch_sizes_of(batch_size, len(train)),
            seed=seed,
            ratios=ratios,
            shuffle_window=shuffle_window,
            repeat_threshold=repeat_threshold,
        )
        self.train_caches = tuple(FeatureCache.open(x, max_local_gb=max_local_gb) for x in train)
        self.val_cache = None if val is None else FeatureCache.open(val, max_local_gb=max_local_gb)
        self.templates = templates
        self._max_regions_per_image = max_regions_per_image
        self._with_masks = False
        self._seed = seed
        self._check_fingerprints()
        self._check_labels()
        self._images = [_images_with_regions(cache) for cache in self.train_caches]

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Number of images in a step of each training cache, over all devices."""
        return self._order_options.batch_sizes

    @cached_property
    def _order(self) -> MixedBatchSampler:
        return training_order(self.train_caches, self._images, self._order_options)

    @property
    def fingerprint(self) -> Fingerprint:
        """The models and settings that all caches were made with."""
        return self.train_caches[0].manifest.fingerprint

    @property
    def spec(self) -> FeatureSpec:
        """Widths of the features."""
        return FeatureSpec(
            token_dim=self.fingerprint.token_dim,
            feature_dim=self.fingerprint.feature_dim,
            text_dim=self.fingerprint.text_dim,
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
        """Mean number of images in a full training batch over all devices."""
        if len(set(self.batch_sizes)) == 1:
            return float(self.batch_sizes[0])  # without the order, which may read all labels
        counts = self._order.num_batches_by_source
        return float(np.average(self.batch_sizes, weights=counts))

    @cached_property
    def text_banks(self) -> tuple[Tensor, ...]:
        """The text bank of each training cache, (C, E) float32."""
        return tuple(_text_bank(cache, self.templates) for cache in self.train_caches)

    @cached_property
    def val_text_bank(self) -> Tensor | None:
        """The text bank of the validation cache, (C, E) float32; None without one."""
        return None if self.val_cache is None else _text_bank(self.val_cache, self.templates)

    def request_masks(self) -> None:
        """Make `RegionBatch.mask_patches` in the loaders that are created from now on.

        Raises:
            ConfigError: A cache has no masks.
        """
        for cache in (*self.train_caches, *([self.val_cache] if self.val_cache else [])):
            cache.check_has_masks()
        self._with_masks = True

    @override
    def setup(self, stage: str) -> None:
        """Log the number of training images, and read the text banks."""
        for cache, usable, bank in zip(
            self.train_caches, self._images, self.text_banks, strict=True
        ):
            _LOGGER.info(
                "%s: %d classes, %d images to train on, %d without regions are left out",
                cache.location,
                len(bank),
                len(usable),
                len(cache) - len(usable),
            )
        if stage == "fit":
            if self.trainer is None or self.trainer.is_global_zero:
                warn_of_little_room(self.train_caches, self._order_options.shuffle_window)
            _LOGGER.info(
                "An epoch has %d batches, of each cache %s",
                self._order.num_batches,
                list(self._order.num_batches_by_source),
            )

    @override
    def train_dataloader(self) -> CacheLoader:
        """Return random batches, each from one training cache."""
        return self._loader(self._order, self.train_caches, max_regions=self._max_regions_per_image)

    @override
    def val_dataloader(self) -> CacheLoader | list[CacheLoader]:
        """Return all images of the validation cache in order; without a cache, no loader.

        Give the Trainer ``limit_val_batches=0`` then, or it warns.
        """
        if self.val_cache is None:
            return []
        order = SequentialOrder(num_images=len(self.val_cache), batch_size=max(self.batch_sizes))
        return self._loader(order, (self.val_cache,), max_regions=None)

    def _loader(
        self, order: Order, caches: Sequence[FeatureCache], *, max_regions: int | None
    ) -> CacheLoader:
        trainer = self.trainer
        rank, world_size = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        for batch_size in self.batch_sizes:
            if batch_size % world_size:
                raise ConfigError(
                    f"data.batch_size is {batch_size}, for all devices together; it does not divide"
                    f" among {world_size} devices. Give a multiple."
                )
        collator = Collator(
            caches,
            max_regions=max_regions,
            seed=self._seed,
            with_masks=self._with_masks,
            pin_memory=trainer is not None and trainer.strategy.root_device.type == "cuda",
        )
        return CacheLoader(order, collator, rank=rank, world_size=world_size)

    def _check_fingerprints(self) -> None:
        others = self.train_caches[1:] + (() if self.val_cache is None else (self.val_cache,))
        for cache in others:
            refuse_differences(
                cache.manifest.fingerprint.differences(self.fingerprint),
                found=cache.location,
                wanted=self.train_caches[0].location,
                advice="Make both with the same `models` section (python cache_features.py), or"
                " train on one of them.",
            )

    def _check_labels(self) -> None:
        for cache in self.train_caches:
            if cache.manifest.proposals is not None:
                raise ConfigError(
                    f"{cache.location} holds proposals ({cache.manifest.proposals}), which have no"
                    " classes to learn. Give data.train caches of annotated regions (made without"
                    " --proposals); use this one with evaluate.py."
                )


def _images_with_regions(cache: FeatureCache) -> IndexArray:
    images = np.flatnonzero(cache.index.num_regions).astype(np.int64)
    if len(images) == 0:
        raise ConfigError(
            f"{cache.location} holds {len(cache)} images without regions: there is nothing to train"
            " on. Remove it from data.train."
        )
    return images


def _text_bank(cache: FeatureCache, templates: str) -> Tensor:
    bank = torch.from_numpy(np.array(cache.text_bank(templates), np.float32))
    wanted = (len(cache.manifest.vocabulary), cache.manifest.fingerprint.text_dim)
    if tuple(bank.shape) != wanted:
        raise CacheMismatchError(
            f"{cache.location}: the text bank {templates!r} has shape {tuple(bank.shape)}, but the"
            f" manifest says {wanted}. Run python cache_features.py again to rebuild it."
        )
    return bank
