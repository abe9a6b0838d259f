"""A configuration with all that it names opened: annotations, models, and the plan they make."""

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from regionspot.annotations import AnnotatedImages, with_merged_classes
from regionspot.backbones import FrozenModels, load_frozen_models
from regionspot.cache import Manifest, Plan
from regionspot.core.errors import ConfigError
from regionspot.extraction.config import CacheConfig
from regionspot.extraction.locate import RegionLocator
from regionspot.extraction.parts import Part
from regionspot.extraction.prepare import Preparation, ShardJob
from regionspot.extraction.publishing import open_destination
from regionspot.extraction.regions import describe_proposals, read_regions
from regionspot.extraction.reuse import OldCache
from regionspot.storage import RemoteFolder, is_url

# Formats of people's own data: who drew the boxes may have seen photos upright or as stored.
_WITHOUT_A_KNOWN_ORIENTATION = ("coco", "csv")


class CacheJob:
    """What a cache is made from; nothing is written here.

    Args:
        config: What to cache, and where.
        models: The frozen models that the configuration names, if they are loaded already.
        annotated: The annotations that it names, if they are read already.

    Raises:
        MissingFileError: The annotation file, the folder of images or a weights file is missing.
        AnnotationError: The annotations are in another format, or hold nothing to cache.
        ConfigError: Synonyms are asked for that the annotations do not list.
        VocabularyError: CLIP does not know a word of a class name, or cannot tell names apart, and
            the configuration refuses that.
        DiskError: A file lies where the cache's folder should be.
        WeightsError: Weights do not fit their model.
        CacheMismatchError: The cache to reuse was made by other models or settings.
        CacheCorruptError: The cache to reuse is not finished, or damaged.
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
        )
        self.manifest = Manifest(
            name=self.annotated.name,
            fingerprint=self.models.fingerprint(exif_policy=config.exif_policy),
            annotation_sha256=self.annotated.annotation_sha256,
            annotation_format=self.annotated.format,
            proposals=describe_proposals(config, self.annotated),
            prompt=config.annotations.prompt,
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
            self.manifest = replace(self.manifest, reused=self.old_cache.contents_sha256)

    @property
    def preparation(self) -> Preparation:
        """How images are prepared."""
        return Preparation(
            images_dir=_folder_of_images(self.config.annotations.images_dir),
            exif_policy=self.config.exif_policy,
            max_image_pixels=self.config.max_image_pixels,
            locator=self.locator,
            encoder=self.models.encoder,
            old_cache=self.old_cache,
            knows_orientation=self.config.annotations.format not in _WITHOUT_A_KNOWN_ORIENTATION,
        )

    @property
    def num_batches(self) -> int:
        """Batches of the whole plan, whatever is done of it already."""
        plan, batch_size = self.manifest.plan, self.config.batch_size
        sizes = [len(plan.images_of(shard)) for shard in (0, plan.num_shards - 1)]
        full, last = (-(-size // batch_size) for size in sizes)
        return full * (plan.num_shards - 1) + last

    def text_bank(self, templates: str) -> NDArray[np.float32]:
        """Return the embeddings of the class names, (C, E), taken over or computed."""
        vocabulary = self.manifest.vocabulary
        if self.old_cache is not None:
            bank = self.old_cache.text_bank(vocabulary, templates)
            if bank is not None:
                return bank
        bank_CE = self.models.text_bank(
            vocabulary, templates=templates, synonyms=self.annotated.synonyms
        )
        return bank_CE.float().cpu().numpy()

    def shard_jobs(self, shards: Iterable[int]) -> list[ShardJob]:
        """Return the images of shards."""
        jobs = []
        for shard in shards:
            images = self.manifest.plan.images_of(shard)
            records = self.records[images.start : images.stop]
            jobs.append(ShardJob(shard_index=shard, records=records))
        return jobs


def _with_sound_names(
    config: CacheConfig, annotated: AnnotatedImages, models: FrozenModels
) -> tuple[AnnotatedImages, tuple[str, ...]]:
    """Do about class names what the configuration says, and return what to say about them."""
    notes: dict[str, None] = {}
    for templates in config.templates:
        findings = models.examine_names(
            annotated.vocabulary, templates=templates, synonyms=annotated.synonyms
        )
        if config.unknown_words == "refuse":
            findings.check_words(" To try the pipeline all the same: --unknown_words keep.")
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


def _folder_of_images(images_dir: str) -> Path | RemoteFolder:
    return RemoteFolder(images_dir) if is_url(images_dir) else Path(images_dir)
