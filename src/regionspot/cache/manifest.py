"""The manifest: what a cache holds, what made it, and which image is in which shard.

`image_bytes` predicts from it the size of images in their tars.
"""

from collections.abc import Collection
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from regionspot.cache.feature_codec import CodecName, FeatureCodec, StoredForm, find_codec
from regionspot.cache.fingerprint import Fingerprint, field_differences, refuse_differences
from regionspot.cache.layout import (
    CACHE_COMMAND,
    MASKS,
    MEMBERS,
    MERGE_COMMAND,
    MERGED,
    SCHEMA_VERSION,
    Plan,
    manifest_path,
    members_of,
)
from regionspot.cache.member_bytes import BLOCK_BYTES, HEADER_BYTES
from regionspot.cache.sample import data_bytes
from regionspot.cache.sealed import check_schema_version, open_sealed_json, seal_json
from regionspot.core.errors import (
    CacheCorruptError,
    CacheMismatchError,
    ConfigError,
    MissingFileError,
)
from regionspot.core.files import write_text_atomic
from regionspot.core.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredError:
    """Relative error of stored numbers against those of float32 models, on a few images.

    It is the root mean square of the differences over that of the numbers.
    """

    feature_map: float | None
    """Error of feature maps; None if no image was measured."""
    position_tokens: float | None
    """Error of position tokens; None if no region was measured."""
    num_images: int
    """Number of images measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything that the shards of a cache have in common; written before the first shard.

    Raises:
        ConfigError: The data set's category ids do not match the vocabulary one to one, or the
            codec cannot store feature maps as wide as these, or version 3 is to have masks.
        CacheMismatchError: There is no such codec.
    """

    schema_version: int = SCHEMA_VERSION
    """Version of the format."""
    name: str
    """Name of the data set."""
    fingerprint: Fingerprint
    """Identity of the frozen models."""
    annotation_sha256: str
    """SHA-256 of the annotation file."""
    annotation_format: str
    """Format of the annotation file, such as ``lvis``."""
    proposals: str | None = None
    """Identity of the proposals used as regions; None for annotated regions."""
    prompt: str = "box"
    """Kind of prompt given to SAM for each region."""
    masks: bool = False
    """Whether SAM's mask of each region is stored; not in version 3."""
    codec: CodecName = "float16"
    """How feature maps are stored."""
    precision: str = "float32"
    """Precision of the frozen models."""
    measured_error: MeasuredError | None = None
    """Error due to codec and precision; None if both are the default."""
    reused: str | None = None
    """`CacheIndex.contents_sha256` of the cache from which feature maps and tokens were reused;
    None if all were computed."""
    plan: Plan
    """Which image is in which shard."""
    vocabulary: Vocabulary
    """The class names; labels are indices into them."""
    category_ids: tuple[int, ...]
    """The data set's own id of each class, in the order of the vocabulary."""

    def __post_init__(self) -> None:
        if len(self.category_ids) != len(self.vocabulary):
            raise ConfigError(
                f"a manifest has {len(self.category_ids)} category ids for {len(self.vocabulary)}"
                " class names; wanted one for each."
            )
        if self.masks and self.schema_version == 3:
            raise ConfigError("a cache of schema version 3 cannot store masks; wanted version 4.")
        self.feature_codec.row_width(self.fingerprint.feature_dim)  # refuses other widths

    @property
    def members(self) -> tuple[str, ...]:
        """The members of every image, in the order of the tar."""
        return members_of(self.schema_version, masks=self.masks)

    @property
    def feature_codec(self) -> FeatureCodec:
        """The codec of feature maps."""
        return find_codec(self.codec)

    @property
    def feature_map_form(self) -> StoredForm:
        """Dtype and shape of stored feature maps."""
        return self.feature_codec.form(
            num_tokens=self.fingerprint.num_feature_tokens,
            feature_dim=self.fingerprint.feature_dim,
        )

    @property
    def sha256(self) -> str:
        """The seal of the manifest's file; every shard and the index carry it."""
        return _sealed(self)[1]


def write_manifest(cache_dir: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` atomically; equal manifests give equal bytes."""
    path = manifest_path(cache_dir)
    check_schema_version(manifest.schema_version, path)
    write_text_atomic(path, _sealed(manifest)[0])


def read_manifest(cache_dir: Path) -> Manifest:
    """Read ``manifest.json``.

    Raises:
        MissingFileError: The folder is no cache.
        CacheMismatchError: It has another schema version, or an unknown codec.
        CacheCorruptError: It was changed after it was written.
    """
    path = manifest_path(cache_dir)
    if not path.exists():
        raise MissingFileError(
            f"{cache_dir} is no feature cache: it has no {path.name}. Give the folder that"
            f" cache_features.py wrote, or make it: {CACHE_COMMAND}"
        )
    values, seal = open_sealed_json(
        path,
        remedy=f"Restore it from a copy, or remove the folder and cache again: {CACHE_COMMAND}",
    )
    try:
        manifest = _from_json(values)
        is_as_written = manifest.sha256 == seal
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, CacheMismatchError):
            raise
        raise CacheCorruptError(f"{path} is incomplete or invalid: {error!s:.300}") from error
    if not is_as_written:
        raise CacheCorruptError(
            f"{path} is sealed, but not as this library writes a manifest. Do not trust where it"
            " came from."
        )
    return manifest


def check_same_manifest(found: Manifest, wanted: Manifest) -> None:
    """Raise `CacheMismatchError` if a cache was begun with other models, settings or annotations.

    The measured error may differ: it is a result, not a setting. So may the version of the format:
    a cache is continued in the version in which it was begun.
    """
    advice = (
        "Set these options as they were found to continue it, or write to another"
        f" output_dir: {CACHE_COMMAND} --output_dir <another folder>"
    )
    if found.annotation_format == MERGED:
        advice = (
            "It was merged from other caches. Give these again to continue it, with --repair"
            f" after damage, or set another output_dir: {MERGE_COMMAND}"
        )
    refuse_differences(
        manifest_differences(found, wanted, but=("schema_version",)),
        found=f"this folder holds the cache {found.name!r}, which",
        advice=advice,
    )


def manifest_differences(
    found: Manifest, wanted: Manifest, *, but: Collection[str] = ()
) -> list[str]:
    """Return ``field: found X, wanted Y`` for each field unequal in the wanted manifest.

    Fields in ``but`` may differ.
    """
    lines: list[str] = []
    for field in fields(Manifest):
        ours, theirs = getattr(found, field.name), getattr(wanted, field.name)
        if ours == theirs or field.name in {"measured_error", *but}:
            continue
        if isinstance(ours, Fingerprint | Plan):
            inner = field_differences(asdict(ours), asdict(theirs))
            lines += [f"{field.name}.{line}" for line in inner]
        elif isinstance(ours, Vocabulary | tuple):
            lines.append(f"{field.name}: {_first_difference(tuple(ours), tuple(theirs))}")
        else:
            lines.append(f"{field.name}: found {ours!r}, wanted {theirs!r}")
    return lines


def _first_difference(found: tuple[object, ...], wanted: tuple[object, ...]) -> str:
    for label, (ours, theirs) in enumerate(zip(found, wanted, strict=False)):
        if ours != theirs:
            return f"label {label}: found {ours!r}, wanted {theirs!r}"
    return f"found {len(found)} entries, wanted {len(wanted)}"


def _sealed(manifest: Manifest) -> tuple[str, str]:
    values = {field.name: getattr(manifest, field.name) for field in fields(manifest)}
    values |= {
        "fingerprint": manifest.fingerprint.to_dict(),
        "measured_error": manifest.measured_error and asdict(manifest.measured_error),
        "plan": asdict(manifest.plan),
        "vocabulary": manifest.vocabulary.names,
    }
    if manifest.schema_version == 3:
        del values["masks"]
    return seal_json(values, indent=2)


class _Stored(msgspec.Struct, kw_only=True):
    """The types of the stored values; the classes built from them check the rest."""

    schema_version: int
    name: str
    fingerprint: dict[str, Any]
    annotation_sha256: str
    annotation_format: str
    proposals: str | None
    prompt: str
    masks: bool = False
    codec: str
    precision: str
    measured_error: MeasuredError | None
    reused: str | None
    plan: Plan
    vocabulary: tuple[str, ...]
    category_ids: tuple[int, ...]


def _from_json(values: dict[str, Any]) -> Manifest:
    stored = msgspec.convert(values, _Stored)
    parts = msgspec.structs.asdict(stored)
    parts["fingerprint"] = Fingerprint.from_dict(stored.fingerprint)
    parts["vocabulary"] = Vocabulary(stored.vocabulary)
    return Manifest(**parts)


def image_bytes(
    manifest: Manifest, num_regions: NDArray[np.integer], *, bytes_per_mask: int = 0
) -> NDArray[np.int64]:
    """Return the size of each image in its tar, (N,), including tar headers and padding.

    It is exact for images without masks whose file name has fewer than about 300 characters.

    Args:
        manifest: The manifest of the cache.
        num_regions: Number of regions of each image, (N,).
        bytes_per_mask: Mean size of a stored mask, if the cache has masks.
    """
    form, token_dim = manifest.feature_map_form, manifest.fingerprint.token_dim
    members = data_bytes(form, token_dim, num_regions)[:, : len(manifest.members) - 1]
    members[:, : MEMBERS.index(MASKS) - 1] += HEADER_BYTES
    members[:, MEMBERS.index(MASKS) - 1 :] = num_regions[:, None] * bytes_per_mask
    # Each member follows a tar header of one block; the json member usually fills one block.
    blocks = 2 + (1 - (-members // BLOCK_BYTES)).sum(axis=1)
    return blocks * BLOCK_BYTES
