"""The manifest: what a cache holds, what made it, and how it is cut into shards.

`image_bytes` follows from it: the sizes of N images in a shard before anything is written.
"""

from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from regionspot.cache.feature_codec import CodecName, FeatureCodec, StoredForm, find_codec
from regionspot.cache.fingerprint import Fingerprint, refuse_differences
from regionspot.cache.layout import (
    CACHE_COMMAND,
    MERGE_COMMAND,
    MERGED,
    SCHEMA_VERSION,
    Plan,
    manifest_path,
)
from regionspot.cache.member_bytes import BLOCK_BYTES, HEADER_BYTES
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
    """How far stored numbers are from those of float32 models, on a few images.

    Each is the root mean square of the differences over that of the numbers.
    """

    feature_map: float | None
    """Relative error of feature maps; None if no image could be measured."""
    position_tokens: float | None
    """Relative error of position tokens; None if no region could be."""
    num_images: int
    """Images that it was measured on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything that all shards of a cache have in common; it is written before the first of them.

    Raises:
        ConfigError: The data set's category ids do not match the vocabulary one to one, or the
            codec cannot store feature maps as wide as these.
        CacheMismatchError: There is no such codec.
    """

    schema_version: int = SCHEMA_VERSION
    """Version of the format."""
    name: str
    """Name of the data set."""
    fingerprint: Fingerprint
    """What made the numbers."""
    annotation_sha256: str
    """SHA-256 of the annotation file."""
    annotation_format: str
    """Format of the annotation file, such as ``lvis``."""
    proposals: str | None = None
    """Identity of the proposals that the regions are; None if they are the annotated ones."""
    prompt: str = "box"
    """What of a region SAM was shown."""
    codec: CodecName = "float16"
    """How feature maps are stored."""
    precision: str = "float32"
    """In which precision the frozen models ran."""
    measured_error: MeasuredError | None = None
    """What codec and precision cost; None where both are the default."""
    reused: str | None = None
    """`CacheIndex.contents_sha256` of the cache that feature maps and tokens were taken from where
    it had them; None if all were computed."""
    plan: Plan
    """Which image is in which shard."""
    vocabulary: Vocabulary
    """The class names that labels count."""
    category_ids: tuple[int, ...]
    """The data set's own id of each class, in the order of the vocabulary."""

    def __post_init__(self) -> None:
        if len(self.category_ids) != len(self.vocabulary):
            raise ConfigError(
                f"a manifest has {len(self.category_ids)} category ids for {len(self.vocabulary)}"
                " class names; wanted one for each."
            )
        self.feature_codec.row_width(self.fingerprint.feature_dim)  # refuses other widths

    @property
    def feature_codec(self) -> FeatureCodec:
        """What encodes and decodes feature maps."""
        return find_codec(self.codec)

    @property
    def feature_map_form(self) -> StoredForm:
        """How feature maps lie in the shards."""
        return self.feature_codec.form(
            num_tokens=self.fingerprint.num_feature_tokens,
            feature_dim=self.fingerprint.feature_dim,
        )

    @property
    def sha256(self) -> str:
        """The seal of the manifest's file; every shard and the index carry it."""
        return _sealed(self)[1]


def write_manifest(cache_dir: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` atomically; equal manifests give equal bytes.

    Raises:
        CacheMismatchError: The manifest's schema version is not the one this library writes.
    """
    path = manifest_path(cache_dir)
    check_schema_version(manifest.schema_version, path)
    write_text_atomic(path, _sealed(manifest)[0])


def read_manifest(cache_dir: Path) -> Manifest:
    """Read ``manifest.json``.

    Raises:
        MissingFileError: The folder is no cache.
        CacheMismatchError: It is of another schema version, or stored in a way unknown to this one.
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
        raise CacheCorruptError(
            f"{path} lacks or garbles a part of a manifest: {error!s:.300}"
        ) from error
    if not is_as_written:
        raise CacheCorruptError(
            f"{path} is sealed, but not as this library writes a manifest. Do not trust where it"
            " came from."
        )
    return manifest


def check_same_manifest(found: Manifest, wanted: Manifest) -> None:
    """Refuse to go on with a cache that was begun with other models, settings or annotations.

    The measured error may differ: it is a result, not a setting.

    Raises:
        CacheMismatchError: The manifests differ; the message names each field.
    """
    advice = (
        "Set these options as they were found to go on with it, or write to another"
        f" output_dir: {CACHE_COMMAND} --output_dir <another folder>"
    )
    if found.annotation_format == MERGED:
        advice = (
            "It was merged from other caches. Give these again to go on with it, with --repair"
            f" to mend it, or set another output_dir: {MERGE_COMMAND}"
        )
    refuse_differences(
        manifest_differences(found, wanted),
        found=f"this folder holds the cache {found.name!r}, which",
        advice=advice,
    )


def manifest_differences(
    found: Manifest, wanted: Manifest, *, but: Collection[str] = ()
) -> list[str]:
    """Return ``field: found X, wanted Y`` for each field unequal in the wanted one.

    Args:
        found: The manifest of what is there.
        wanted: The manifest of what is needed.
        but: Fields that may differ.
    """
    allowed = {name: getattr(wanted, name) for name in but}
    return list(_differences(replace(found, **allowed), wanted))


def _differences(found: Manifest, wanted: Manifest) -> Iterator[str]:
    for field in fields(Manifest):
        ours, theirs = getattr(found, field.name), getattr(wanted, field.name)
        if ours == theirs or field.name == "measured_error":
            continue
        if isinstance(ours, Fingerprint):
            yield from (f"fingerprint.{line}" for line in ours.differences(theirs))
        elif isinstance(ours, Plan):
            for name, value in asdict(ours).items():
                if value != asdict(theirs)[name]:
                    yield f"plan.{name}: found {value!r}, wanted {asdict(theirs)[name]!r}"
        elif isinstance(ours, Vocabulary | tuple):
            yield f"{field.name}: {_first_difference(tuple(ours), tuple(theirs))}"
        else:
            yield f"{field.name}: found {ours!r}, wanted {theirs!r}"


def _first_difference(found: tuple[object, ...], wanted: tuple[object, ...]) -> str:
    for label, (ours, theirs) in enumerate(zip(found, wanted, strict=False)):
        if ours != theirs:
            return f"label {label}: found {ours!r}, wanted {theirs!r}"
    return f"found {len(found)} entries, wanted {len(wanted)}"


def _sealed(manifest: Manifest) -> tuple[str, str]:
    error = manifest.measured_error
    return seal_json(
        {
            "name": manifest.name,
            "fingerprint": manifest.fingerprint.to_dict(),
            "annotation_sha256": manifest.annotation_sha256,
            "annotation_format": manifest.annotation_format,
            "proposals": manifest.proposals,
            "prompt": manifest.prompt,
            "codec": manifest.codec,
            "precision": manifest.precision,
            "measured_error": None if error is None else asdict(error),
            "reused": manifest.reused,
            "plan": asdict(manifest.plan),
            "vocabulary": list(manifest.vocabulary.names),
            "category_ids": list(manifest.category_ids),
        },
        indent=2,
    )


class _Stored(msgspec.Struct, kw_only=True):
    """The types of what is stored; the classes that are made of it check the rest."""

    name: str
    fingerprint: dict[str, Any]
    annotation_sha256: str
    annotation_format: str
    proposals: str | None
    prompt: str
    codec: str
    precision: str
    measured_error: MeasuredError | None
    reused: str | None
    plan: Plan
    vocabulary: tuple[str, ...]
    category_ids: tuple[int, ...]


def _from_json(values: dict[str, Any]) -> Manifest:
    stored = msgspec.convert(values, _Stored)
    parts = {name: getattr(stored, name) for name in _Stored.__struct_fields__}
    parts |= {
        "fingerprint": Fingerprint.from_dict(stored.fingerprint),
        "vocabulary": Vocabulary.from_names(stored.vocabulary),
    }
    return Manifest(**parts)


def image_bytes(manifest: Manifest, num_regions: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return what each image takes in its tar, (N,), tar headers and padding included.

    Args:
        manifest: Says how large feature maps and tokens are, and how they are stored.
        num_regions: Regions of each image, (N,).
    """
    regions = num_regions.astype(np.int64)
    feature_map = np.full_like(regions, manifest.feature_map_form.num_bytes)
    rows = (
        2 * manifest.fingerprint.token_dim,
        4 * 4,
        8,
        4,
    )  # position token, box, label, box score
    arrays = [feature_map, *(regions * row_bytes for row_bytes in rows)]
    # The json member fills one block, and each member has a tar header of one block.
    return 2 * BLOCK_BYTES + sum(
        (BLOCK_BYTES + _whole_blocks(HEADER_BYTES + array) for array in arrays),
        start=np.zeros_like(regions),
    )


def _whole_blocks(num_bytes: NDArray[np.int64]) -> NDArray[np.int64]:
    return -(-num_bytes // BLOCK_BYTES) * BLOCK_BYTES
