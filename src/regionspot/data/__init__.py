"""From feature caches to batches: order, loader, Lightning data module."""

from regionspot.data.collate import RegionBatch
from regionspot.data.datamodule import CachedRegions, FeatureSpec
from regionspot.data.loader import CacheLoader

__all__ = ["CacheLoader", "CachedRegions", "FeatureSpec", "RegionBatch"]
