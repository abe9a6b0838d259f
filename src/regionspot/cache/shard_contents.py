"""What a shard holds: samples are checked before they are written, and counted for the sidecar."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from regionspot.cache.feature_codec import StoredForm
from regionspot.cache.layout import ARRAY_MEMBERS, MEMBERS
from regionspot.cache.manifest import Manifest
from regionspot.cache.member_bytes import TarWriter, WrittenMember
from regionspot.cache.sample import CachedSample
from regionspot.cache.sidecar import QuarantinedImage, ShardSidecar
from regionspot.core.errors import AnnotationError, ShapeError


class ShardContents:
    """Collects what the sidecar says about the images while they are written."""

    def __init__(self) -> None:
        self.quarantined: list[QuarantinedImage] = []
        """Images of the shard that could not be used."""
        self._keys: list[str] = []
        self._rows: list[tuple[int, int, int, int]] = []
        self._members: list[list[tuple[int, int, int]]] = []
        self._label_counts: Counter[int] = Counter()
        self._num_clipped = self._num_dropped = 0

    def add(self, sample: CachedSample, members: Sequence[WrittenMember]) -> None:
        """Take note of a sample and of where its members went."""
        self._keys.append(sample.key)
        self._rows.append((sample.image_id, *sample.size_hw, sample.num_regions))
        self._num_clipped += sample.num_clipped_regions
        self._num_dropped += sample.num_dropped_regions
        self._members.append([(m.offset, m.num_bytes, m.crc32) for m in members])
        self._label_counts.update(sample.labels[sample.labels >= 0].tolist())

    def check(self, num_planned: int, where: str) -> None:
        """Check that every planned image is there once, as a sample or quarantined.

        Raises:
            AnnotationError: Two images share a key.
            ShapeError: The images are not ``num_planned``.
        """
        keys = [*self._keys, *(image.key for image in self.quarantined)]
        if len(set(keys)) != len(keys):
            twice = Counter(keys).most_common(1)[0][0]
            raise AnnotationError(
                f"{where}: two images have the key {twice!r}; wanted unique keys."
            )
        if len(keys) != num_planned:
            raise ShapeError(
                f"{where} was given {len(self._keys)} samples and {len(self.quarantined)}"
                f" quarantined images; its plan has {num_planned} images, each of which must be"
                " one or the other."
            )

    def sidecar(
        self, manifest: Manifest, shard_index: int, *, tar: TarWriter, tar_sha256: str
    ) -> ShardSidecar:
        """Return the sidecar of the finished tar."""
        rows = np.array(self._rows, np.int64).reshape(-1, 4)
        members = np.array(self._members, np.int64).reshape(-1, len(MEMBERS), 3)
        return ShardSidecar(
            shard=shard_index,
            manifest_sha256=manifest.sha256,
            tar_bytes=tar.num_bytes,
            tar_sha256=tar_sha256,
            feature_map_form=manifest.feature_map_form,
            token_dim=manifest.fingerprint.token_dim,
            keys=tuple(self._keys),
            image_ids=rows[:, 0],
            sizes_hw=rows[:, 1:3],
            num_regions=rows[:, 3],
            offsets=members[..., 0],
            lengths=members[..., 1],
            checksums=members[..., 2],
            image_checksums=np.array(tar.image_checksums, np.uint64),
            label_counts=tuple(sorted(self._label_counts.items())),
            num_clipped_regions=self._num_clipped,
            num_dropped_regions=self._num_dropped,
            quarantined=tuple(self.quarantined),
        )


def check_sample(sample: CachedSample, manifest: Manifest) -> None:
    """Refuse a sample that does not fit the manifest, before it is written.

    Raises:
        ShapeError: A width differs, a label is not in the vocabulary (or a proposal has one), a
            score is not in 0..1, or a value is not finite.
    """
    form, token_dim = manifest.feature_map_form, manifest.fingerprint.token_dim
    found = StoredForm(dtype=sample.feature_map.dtype.str, shape=sample.feature_map.shape)
    if found != form or sample.position_tokens.shape[1] != token_dim:
        raise ShapeError(
            f"image {sample.key}: feature map {found.dtype} {found.shape}, position tokens"
            f" {sample.position_tokens.shape}; the manifest promises {form.dtype} {form.shape} and"
            f" (R, {token_dim})."
        )
    low, high = (0, len(manifest.vocabulary) - 1) if manifest.proposals is None else (-1, -1)
    if sample.num_regions and not low <= sample.labels.min() <= sample.labels.max() <= high:
        why = f"the vocabulary has {high + 1} names" if high >= 0 else "proposals have no class"
        raise ShapeError(
            f"image {sample.key}: labels reach from {sample.labels.min()} to"
            f" {sample.labels.max()}; wanted {low} to {high}, as {why}."
        )
    if not ((sample.box_scores >= 0) & (sample.box_scores <= 1)).all():
        raise ShapeError(
            f"image {sample.key}: box_scores are {sample.box_scores.tolist()}; wanted 0 to 1."
        )
    for name, array in zip(ARRAY_MEMBERS, sample.arrays, strict=True):
        is_map = array is sample.feature_map
        if not (manifest.feature_codec.all_finite(array) if is_map else np.isfinite(array).all()):
            raise ShapeError(
                f"image {sample.key}: {name} holds values that are not finite. A number above"
                " 65504 does not fit into float16; look at the image, and at the dtype in which"
                " the frozen models run."
            )
