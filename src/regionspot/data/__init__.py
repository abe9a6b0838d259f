"""From feature caches to batches: order, loader, Lightning data module."""

from regionspot.data.batch import RegionBatch
from regionspot.data.datamodule import CachedRegions
from regionspot.data.loader import CacheLoader
from regionspot.data.spec import FeatureSpec

__all__ = ["CacheLoader", "CachedRegions", "FeatureSpec", "RegionBatch"]
