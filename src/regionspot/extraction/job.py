"""Opens a configuration: reads its annotations, loads its models, and makes the plan."""

import os
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from regionspot.annotations import (
    AnnotatedImages,
    ExaminedBoxes,
    implausible_error,
    overshooting,
    read_annotations,
    read_category_tree,
    read_proposals,
    with_merged_classes,
    with_proposals,
    without_regions,
)
from regionspot.backbones import FrozenModels, load_frozen_models
from regionspot.backbones.decode_images import read_size_hw
from regionspot.cache import Manifest, Plan, write_category_tree
from regionspot.core.errors import ConfigError, MissingFileError
from regionspot.extraction.config import CacheConfig
from regionspot.extraction.destination import open_destination
from regionspot.extraction.locate import RegionLocator
from regionspot.extraction.parts import Part
from regionspot.extraction.prepare import Preparation, ShardJob
from regionspot.extraction.reuse import OldCache
from regionspot.storage import RemoteFolder, is_url, local_input

_NUM_CHECKED = 64
"""Number of images to decode if the annotations do not give image sizes."""


def read_regions(config: CacheConfig) -> AnnotatedImages:
    """Read a configuration's annotations, or its proposals in their place."""
    annotated = _read_regions(config)
    doubt = _doubt_by_decoded_sizes(config, annotated)
    if doubt is None:
        return annotated
    if config.proposals is not None and config.proposals.implausible == "refuse":
        raise implausible_error(config.proposals.path, doubt, "proposals")
    if config.proposals is None and config.annotations.implausible == "refuse":
        raise implausible_error(config.annotations.path, doubt, "annotations")
    report = annotated.report
    return replace(annotated, report=replace(report, notes=(*report.notes, doubt)))


def _read_regions(config: CacheConfig) -> AnnotatedImages:
    options = config.annotations
    images_dir = None if is_url(options.images_dir) else Path(options.images_dir)
    if images_dir is not None and not images_dir.is_dir():
        raise MissingFileError(
            f"{images_dir} is not a folder; wanted the one that holds the images of {options.path}."
            " Set --annotations.images_dir."
        )
    annotated = read_annotations(
        options.format,
        local_input(options.path),
        images_dir,
        name=options.name,
        options=options.read_options(local_input),
    )
    proposals = config.proposals
    if proposals is None:
        return annotated
    if proposals.path is None:
        return without_regions(annotated)
    return with_proposals(
        annotated,
        read_proposals(local_input(proposals.path), format=proposals.format),
        min_score=proposals.min_score,
        max_per_image=proposals.max_per_image,
        implausible=proposals.implausible,
    )


def _doubt_by_decoded_sizes(config: CacheConfig, annotated: AnnotatedImages) -> str | None:
    """Decode a few images to check boxes if the annotations do not give image sizes."""
    images, regions = annotated.records.images, annotated.records.regions
    if images.sizes_hw is not None or regions.box_unit != "pixel" or annotated.images_dir is None:
        return None
    rows = np.flatnonzero(np.diff(regions.starts))
    sizes_hw, chosen = [], []
    for row in rows[:: max(1, -(-len(rows) // _NUM_CHECKED))].tolist():
        path = annotated.images_dir / images.file_names[row]
        size_hw = read_size_hw(path, exif_policy=config.exif_policy)
        if size_hw is not None:
            own = np.arange(regions.starts[row], regions.starts[row + 1])
            sizes_hw += [size_hw] * len(own)
            chosen.append(own)
    if not chosen:
        return None
    return overshooting(
        ExaminedBoxes(
            boxes_xyxy=regions.boxes_xyxy[np.concatenate(chosen)],
            limits_hw=np.array(sizes_hw),
            layout=regions.box_layout,
        )
    )


def describe_proposals(config: CacheConfig, annotated: AnnotatedImages) -> str | None:
    """Describe the proposals uniquely, for the manifest; None without any."""
    if config.proposals is None:
        return None
    if config.proposals.grid is not None:
        options = ", ".join(f"{k} {v}" for k, v in asdict(config.proposals.grid).items())
        return f"found on a grid by SAM: {options}"
    name = local_input(str(config.proposals.path)).name
    return f"{name}, sha256 {annotated.proposals_sha256}"


def store_category_tree(output_dir: Path, tree_path: str, annotated: AnnotatedImages) -> None:
    """Store a category tree of V3Det in the cache, by label."""
    kinds_of = read_category_tree(local_input(tree_path))
    label_of = {number: label for label, number in enumerate(annotated.category_ids)}
    write_category_tree(
        output_dir,
        [
            sorted(label_of[kind] for kind in kinds_of.get(number, ()) if kind in label_of)
            for number in annotated.category_ids
        ],
    )


_WITHOUT_A_KNOWN_ORIENTATION = ("coco", "csv", "yolo", "voc")
"""Formats of users' own data, whose annotators may have seen photos upright or as stored."""


class CacheJob:
    """What a cache is made from; it writes nothing.

    Args:
        config: What to cache, and where.
        models: The frozen models of the configuration, if already loaded.
        annotated: The annotations of the configuration, if already read.

    Raises:
        RegionSpotError: See `cache_features`.
        VocabularyError: CLIP does not know a word of a class name, or cannot tell names apart, and
            the configuration refuses that.
    """

    def __init__(
        self,
        config: CacheConfig,
        *,
        models: FrozenModels | None = None,
        annotated: AnnotatedImages | None = None,
    ) -> None:
        self.config = config
        self.destination = open_destination(config.output_dir, config.staging_dir)
        self.output_dir = self.destination.folder
        annotated = annotated or read_regions(config)
        _check_synonyms(config, annotated)
        self.part = None if config.part is None else Part.parse(config.part, os.environ)
        device = config.device
        if self.part is not None and device == "auto" and torch.cuda.is_available():
            device = f"cuda:{self.part.local_index % torch.cuda.device_count()}"
        self.models = models or load_frozen_models(
            config.models, device=device, batch_size=config.batch_size
        )
        self.annotated, self.name_notes = _with_sound_names(config, annotated, self.models)
        self.records = self.annotated.records[: config.limit]
        plan = Plan.from_keys(self.records.keys(), images_per_shard=config.images_per_shard)
        self.locator = RegionLocator(
            localizer=self.models.localizer,
            prompt=config.annotations.prompt,
            grid=None if config.proposals is None else config.proposals.grid,
            masks=config.masks,
        )
        self.manifest = Manifest(
            name=self.annotated.name,
            fingerprint=self.models.fingerprint(exif_policy=config.exif_policy),
            annotation_sha256=self.annotated.annotation_sha256,
            annotation_format=self.annotated.format,
            proposals=describe_proposals(config, self.annotated),
            prompt=config.annotations.prompt,
            masks=config.masks,
            codec=config.codec,
            precision=self.models.precision,
            plan=plan,
            vocabulary=self.annotated.vocabulary,
            category_ids=self.annotated.category_ids,
        )
        self.old_cache: OldCache | None = None
        if config.reuse is not None:
            self.old_cache = OldCache.open(
                config.reuse,
                wanted=self.manifest,
                finds_regions=self.locator.grid is not None,
            )
            self.manifest = replace(
                self.manifest, reused=self.old_cache.cache.index.contents_sha256
            )

    @property
    def preparation(self) -> Preparation:
        """How images are prepared."""
        images_dir = self.config.annotations.images_dir
        return Preparation(
            images_dir=RemoteFolder(images_dir) if is_url(images_dir) else Path(images_dir),
            exif_policy=self.config.exif_policy,
            max_image_pixels=self.config.max_image_pixels,
            locator=self.locator,
            encoder=self.models.encoder,
            old_cache=self.old_cache,
            knows_orientation=self.config.annotations.format not in _WITHOUT_A_KNOWN_ORIENTATION,
        )

    @property
    def num_batches(self) -> int:
        """Number of batches of the whole plan, done or not."""
        plan, batch_size = self.manifest.plan, self.config.batch_size
        sizes = [len(plan.images_of(shard)) for shard in (0, plan.num_shards - 1)]
        full, last = (-(-size // batch_size) for size in sizes)
        return full * (plan.num_shards - 1) + last

    def text_bank(self, templates: str) -> NDArray[np.float32]:
        """Return the embeddings of the class names, (C, E), reused or computed."""
        vocabulary = self.manifest.vocabulary
        if self.old_cache is not None:
            bank = self.old_cache.text_bank(vocabulary, templates)
            if bank is not None:
                return bank
        bank_CE = self.models.encoder.text_bank(
            vocabulary.names, templates, synonyms=self.annotated.synonyms
        )
        return bank_CE.float().cpu().numpy()

    def done_and_missing(self) -> tuple[list[int], list[int]]:
        """Return the finished shards, and the missing ones."""
        shards = range(self.manifest.plan.num_shards)
        done = [shard for shard in shards if self.destination.is_done(shard)]
        return done, sorted(set(shards).difference(done))

    def shard_jobs(self, shards: Iterable[int]) -> list[ShardJob]:
        """Return the images of shards."""
        spans = [(shard, self.manifest.plan.images_of(shard)) for shard in shards]
        return [
            ShardJob(shard_index=shard, records=self.records[images.start : images.stop])
            for shard, images in spans
        ]


def _with_sound_names(
    config: CacheConfig, annotated: AnnotatedImages, models: FrozenModels
) -> tuple[AnnotatedImages, tuple[str, ...]]:
    """Merge or refuse class names as configured, and return notes on them."""
    notes: dict[str, None] = {}
    for templates in config.templates:
        findings = models.encoder.examine_names(
            annotated.vocabulary.names, templates, synonyms=annotated.synonyms
        )
        if config.unknown_words == "refuse":
            findings.check_words(" To try the pipeline anyway: --unknown_words keep.")
        if config.same_tokens == "refuse":
            findings.check_alike()
        elif config.same_tokens == "merge" and findings.alike:
            annotated = with_merged_classes(annotated, findings.alike)
        notes |= dict.fromkeys(findings.lines(config.same_tokens))
    return annotated, tuple(notes)


def _check_synonyms(config: CacheConfig, annotated: AnnotatedImages) -> None:
    wanting = [name for name in config.templates if name.endswith("-synonyms")]
    if wanting and annotated.synonyms is None:
        raise ConfigError(
            f"--templates has {wanting[0]}, but {config.annotations.path} lists no synonyms of its"
            " categories (LVIS files do). Give the template set without -synonyms."
        )
