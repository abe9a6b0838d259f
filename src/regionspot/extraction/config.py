"""The options of ``cache_features.py``; the texts below the fields are its ``--help``."""

from dataclasses import dataclass, field
from pathlib import Path

from regionspot.annotations import AnnotationFormat, KeepOrDrop, ReadOptions
from regionspot.backbones.clip_text import TEMPLATE_SETS
from regionspot.backbones.presets import ExifPolicy, ModelsConfig
from regionspot.core.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotationsConfig:
    """The data set: an annotation file and the folder of its images.

    Raises:
        ConfigError: An option does not belong to the format, or one that it needs is missing.
    """

    format: AnnotationFormat
    """Format of the annotation file. csv is your own: a header image,x1,y1,x2,y2,label, and boxes
    in pixels."""
    path: str
    """The annotation file, as its authors publish it (unpacked)."""
    images_dir: str
    """Folder that the file names in the annotation file are relative to. LVIS v1: the folder that
    holds COCO's train2017 and val2017. Objects365: the folder that its archives were unpacked to,
    whether or not they lie in images/v1 there. OpenImages: the folder of the <ImageID>.jpg. V3Det:
    the folder that holds its folder images."""
    name: str | None = None
    """Name of the data set, for people; by default the annotation file's."""
    crowds: KeepOrDrop = "keep"
    """Whether annotations around a crowd (iscrowd) are regions like any other; both are counted.
    Not for openimages and csv, which have none."""
    classes_path: str | None = None
    """openimages: the class descriptions (lines MID,name, with or without a header), which it
    needs. csv: a text file with one class name a line; by default labels are numbered in order of
    appearance."""
    rotations_path: str | None = None
    """openimages: the list of images with their rotation, to count how many are stored rotated.
    Boxes refer to images as stored, so nothing else depends on it."""
    groups: KeepOrDrop | None = None
    """openimages: whether boxes around a group (IsGroupOf) are regions; dropped by default."""
    depictions: KeepOrDrop | None = None
    """openimages: whether boxes around a depiction (IsDepiction), such as a drawing, are regions;
    kept by default."""

    def __post_init__(self) -> None:
        self.read_options().check(self.format)

    def read_options(self) -> ReadOptions:
        """Return what is passed on to the format's reader."""
        return ReadOptions(
            crowds=None if self.crowds == "keep" else self.crowds,
            classes_path=None if self.classes_path is None else Path(self.classes_path),
            rotations_path=None if self.rotations_path is None else Path(self.rotations_path),
            groups=self.groups,
            depictions=self.depictions,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """Run the frozen SAM and CLIP once over annotated images and store all that training needs.

    Raises:
        ConfigError: A number is out of its range, or no template set is named.
    """

    output_dir: str
    """Folder of the cache. If it holds an unfinished cache of the same images, models and settings,
    that one is finished; a cache of anything else is refused, not touched."""
    annotations: AnnotationsConfig
    """The images and their regions."""
    models: ModelsConfig = field(default_factory=ModelsConfig)
    """The frozen models."""
    templates: list[str] = field(default_factory=lambda: ["ensemble81"])
    """Template sets to embed the class names with, each a text bank: ensemble81, ensemble80, single
    or none; with -readable at its end underscores become spaces: bat_(animal), bat (animal). More
    can be added later by running again."""
    images_per_shard: int = 1000
    """Images in one shard, which is what an interruption loses at most."""
    batch_size: int = 8
    """Images that go through SAM and CLIP at once: the larger, the more memory. The stored numbers
    may differ between batch sizes in their last bit."""
    device: str = "auto"
    """Where the models run: auto (CUDA where there is any, else the CPU), cpu, cuda or cuda:N."""
    exif_policy: ExifPolicy = "ignore"
    """Whether the orientation in a photo's EXIF data turns the image (apply) or not (ignore). It
    must be what the annotators saw: LVIS, COCO, Objects365 and OpenImages annotate the pixels as
    stored."""
    max_quarantined_share: float = 0.01
    """Stop when more than this share of all images is missing, damaged or of another size than
    annotated. Fewer are left out, each with its reason in quarantine.jsonl."""
    limit: int | None = None
    """Take only the first so many images; by default all."""

    def __post_init__(self) -> None:
        for name in ("images_per_shard", "batch_size", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name} is {value}; wanted 1 or more.")
        if not 0 <= self.max_quarantined_share <= 1:
            raise ConfigError(
                f"--max_quarantined_share is {self.max_quarantined_share}; wanted a share from 0"
                " (stop at the first unusable image) to 1 (never stop)."
            )
        unknown = sorted(set(self.templates) - set(TEMPLATE_SETS))
        if unknown or not self.templates:
            raise ConfigError(
                f"--templates is {self.templates}; wanted one or more of"
                f" {', '.join(TEMPLATE_SETS)}, for instance --templates '[ensemble81]'."
            )
        if not self.output_dir:
            raise ConfigError("--output_dir is empty; name the folder to write the cache to.")
