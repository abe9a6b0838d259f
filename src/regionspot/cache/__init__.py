"""The feature cache: all that training needs of a data set, computed once."""

from regionspot.cache.batch_copy import BatchTargets
from regionspot.cache.cache_files import CacheFiles
from regionspot.cache.feature_cache import FeatureCache
from regionspot.cache.feature_codec import CODECS, CodecName, FeatureCodec, find_codec
from regionspot.cache.fingerprint import Fingerprint, check_same_fingerprint, refuse_differences
from regionspot.cache.index import CacheIndex, build_index
from regionspot.cache.layout import (
    EXTRAS,
    MANIFEST,
    MASKS,
    MEMBERS,
    MERGED,
    PREDICTED_IOU,
    SCHEMA_VERSION,
    SCHEMA_VERSIONS,
    Plan,
    category_tree_path,
    index_path,
    manifest_path,
    quarantine_path,
    shard_path,
    shards_path,
    sidecar_name,
    sidecar_path,
    tar_name,
    text_banks_path,
)
from regionspot.cache.locks import (
    ShardLock,
    exclusive_writer,
    one_at_a_time,
    remove_shard_locks,
    sharing_writer,
    try_lock_shard,
)
from regionspot.cache.manifest import (
    Manifest,
    MeasuredError,
    check_same_manifest,
    image_bytes,
    manifest_differences,
    read_manifest,
    write_manifest,
)
from regionspot.cache.masks import check_masks, decode_masks
from regionspot.cache.member_bytes import encode_array
from regionspot.cache.merge import CacheMerge
from regionspot.cache.remote_files import RemoteFiles, opened_files
from regionspot.cache.sample import CachedSample, ImageDetails
from regionspot.cache.sealed import seal_json, write_sealed_hdf5
from regionspot.cache.shard_reader import ShardReader
from regionspot.cache.shard_writer import shard_is_complete, write_shard
from regionspot.cache.sidecar import (
    QuarantinedImage,
    ShardSidecar,
    read_quarantine,
    read_sidecar,
    write_sidecar,
)
from regionspot.cache.stats import CacheStats, collect_stats, read_labels
from regionspot.cache.text_banks import TextBankStore, read_category_tree, write_category_tree
from regionspot.cache.verify import Problem, find_garbage, verify_cache, verify_files

__all__ = [
    "CODECS",
    "EXTRAS",
    "MANIFEST",
    "MASKS",
    "MEMBERS",
    "MERGED",
    "PREDICTED_IOU",
    "SCHEMA_VERSION",
    "SCHEMA_VERSIONS",
    "BatchTargets",
    "CacheFiles",
    "CacheIndex",
    "CacheMerge",
    "CacheStats",
    "CachedSample",
    "CodecName",
    "FeatureCache",
    "FeatureCodec",
    "Fingerprint",
    "ImageDetails",
    "Manifest",
    "MeasuredError",
    "Plan",
    "Problem",
    "QuarantinedImage",
    "RemoteFiles",
    "ShardLock",
    "ShardReader",
    "ShardSidecar",
    "TextBankStore",
    "build_index",
    "category_tree_path",
    "check_masks",
    "check_same_fingerprint",
    "check_same_manifest",
    "collect_stats",
    "decode_masks",
    "encode_array",
    "exclusive_writer",
    "find_codec",
    "find_garbage",
    "image_bytes",
    "index_path",
    "manifest_differences",
    "manifest_path",
    "one_at_a_time",
    "opened_files",
    "quarantine_path",
    "read_category_tree",
    "read_labels",
    "read_manifest",
    "read_quarantine",
    "read_sidecar",
    "refuse_differences",
    "remove_shard_locks",
    "seal_json",
    "shard_is_complete",
    "shard_path",
    "shards_path",
    "sharing_writer",
    "sidecar_name",
    "sidecar_path",
    "tar_name",
    "text_banks_path",
    "try_lock_shard",
    "verify_cache",
    "verify_files",
    "write_category_tree",
    "write_manifest",
    "write_sealed_hdf5",
    "write_shard",
    "write_sidecar",
]
