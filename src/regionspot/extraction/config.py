"""The options of ``cache_features.py``; the docstrings of the fields are its ``--help``."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from regionspot.annotations import (
    AnnotationFormat,
    Implausible,
    KeepOrDrop,
    Prompt,
    ProposalFormat,
    ReadOptions,
    check_options,
)
from regionspot.backbones import GridProposer, SameTokens
from regionspot.backbones.clip_text import TEMPLATE_SETS
from regionspot.backbones.presets import ExifPolicy, ModelsConfig
from regionspot.cache import CodecName
from regionspot.core.errors import ConfigError
from regionspot.extraction.parts import AUTO, Part
from regionspot.storage import is_url

_HOST_PORT = re.compile(r"[^\s/]+:\d{1,5}")


@dataclass(frozen=True, kw_only=True)  # no slots: jsonargparse reads a default's vars()
class RayConfig:
    """The Ray cluster and its workers. Each worker has one copy of the models."""

    address: str = AUTO
    """Running cluster: auto for the one that this machine belongs to (or that the environment
    variable RAY_ADDRESS names), or host:port of its head."""
    num_workers: int | None = None
    """Number of workers; by default as many as fit on the cluster."""
    cpus_per_worker: int | None = None
    """CPU cores, and threads, of each worker; by default the cores per GPU of the machine that has
    fewest, without GPUs all cores of the smallest machine. The number of threads may change the
    last bit of what a CPU computes."""
    gpus_per_worker: float | None = None
    """GPUs of each worker; by default 1 if the cluster has any, and 0 with --device cpu. 0.5 puts
    two workers on one GPU."""

    def __post_init__(self) -> None:
        if self.address != AUTO and _HOST_PORT.fullmatch(self.address) is None:
            raise ConfigError(
                f"--ray.address is {self.address!r}; wanted auto, or host:port of the cluster's"
                " head, such as 10.0.0.1:6379, on a machine of the cluster (ray:// is for machines"
                " outside, which cannot write to its disk)."
            )
        _check_positive(self, "num_workers", "cpus_per_worker", group="ray.")
        if self.gpus_per_worker is not None and self.gpus_per_worker < 0:
            raise ConfigError(f"--ray.gpus_per_worker is {self.gpus_per_worker}; wanted 0 or more.")


def _check_positive(config: object, *names: str, group: str = "") -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{group}{name} is {value}; wanted 1 or more.")


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotationsConfig:
    """The data set: an annotation file and the folder of its images."""

    format: AnnotationFormat
    """Format of the annotation file. Your own data may also be in coco, yolo, voc or csv: a header
    image,x1,y1,x2,y2,label, and boxes in pixels."""
    path: str
    """Annotation file as published (unpacked). yolo: data.yaml, or a text file with one class name
    per line (classes.txt). voc: the folder of the XML files. This and all other files may be URLs;
    they are downloaded once, and again when they change. The labels of yolo and voc are folders,
    which must be local."""
    images_dir: str
    """Folder that the file names in the annotation file are relative to. LVIS v1: the folder with
    COCO's train2017 and val2017. Objects365: the folder that its archives were unpacked to, with or
    without images/v1. OpenImages: the folder of the <ImageID>.jpg. V3Det: the folder that contains
    its folder images. yolo: the folder of the data set, which stands for path in data.yaml. voc:
    JPEGImages. May be a URL (s3://, gs://, https://): images are then read when needed and
    not kept; for Objects365 their paths must be those in the file."""
    name: str | None = None
    """Display name of the data set; by default the name of the annotation file."""
    crowds: KeepOrDrop = "keep"
    """Whether annotations around a crowd (iscrowd) are regions like any other; both are counted.
    Only for coco, lvis, objects365 and v3det."""
    split: str | None = None
    """yolo: the split, such as train or val: a key of data.yaml, or a folder below images. voc: the
    name of a list in ImageSets/Main. By default all images; required if data.yaml has several."""
    image_list: str | None = None
    """Text file of the images to cache, one file name per line, spelled as in the annotations. The
    classes stay those of all images. By default all images."""
    classes_path: str | None = None
    """openimages: the class descriptions (lines MID,name, with or without a header); required. csv
    and voc: a text file with one class name per line; by default the names in order of appearance,
    for voc in alphabetical order."""
    rotations_path: str | None = None
    """openimages: the list of images with their rotation, to count how many are stored rotated.
    Boxes refer to images as stored, so nothing else depends on it."""
    groups: KeepOrDrop | None = None
    """openimages: whether boxes around a group (IsGroupOf) are regions; dropped by default."""
    depictions: KeepOrDrop | None = None
    """openimages: whether boxes around a depiction (IsDepiction), such as a drawing, are regions;
    kept by default."""
    tree_path: str | None = None
    """v3det: v3det_2023_v1_category_tree.json, to store in the cache which classes are kinds of
    which."""
    prompt: Prompt = "box"
    """Prompt for SAM: box; mask, the region's segmentation; box_and_mask; or points, its
    point_coords (with point_labels, 1 inside the region and 0 outside) or keypoints. All but box
    only for coco and lvis. Regions without the prompt are dropped and counted."""
    classes: Literal["annotated"] | list[str] | None = None
    """Classes of the vocabulary: annotated, those that have a region; or a list of names, [cat,
    dog]: regions of other classes are dropped and counted. By default all classes of the file; the
    last lines name those without a region."""
    implausible: Implausible = "refuse"
    """What to do with annotations that look wrong as a whole (more than 90 % of them do not fit, or
    their boxes look normalized, in another order, or of other images): refuse stops before anything
    is cached; accept continues, and the last lines report what is wrong."""

    def __post_init__(self) -> None:
        check_options(self.format, self.read_options())

    def read_options(self, locate: Callable[[str], Path] = Path) -> ReadOptions:
        """Return the options of the format's reader; ``locate`` maps a path or URL to a file."""

        def located(location: str | None) -> Path | None:
            return None if location is None else locate(location)

        return ReadOptions(
            crowds=None if self.crowds == "keep" else self.crowds,
            classes_path=located(self.classes_path),
            split=self.split,
            image_list=located(self.image_list),
            rotations_path=located(self.rotations_path),
            groups=self.groups,
            depictions=self.depictions,
            tree_path=located(self.tree_path),
            prompt=None if self.prompt == "box" else self.prompt,
            classes=tuple(self.classes) if isinstance(self.classes, list) else self.classes,
            implausible=None if self.implausible == "refuse" else self.implausible,
        )


@dataclass(frozen=True, kw_only=True)  # no slots: jsonargparse reads a default's vars()
class ProposalsConfig:
    """Boxes with scores in place of the annotated ones: from a detector, or proposed by SAM."""

    path: str | None = None
    """A detector's boxes: COCO or LVIS results, or GLIP's layout, as JSON."""
    format: ProposalFormat = "auto"
    """Layout of the file: auto (detected from its content), coco (also LVIS) or glip."""
    min_score: float = 0.0
    """Drop boxes of the file with a lower score."""
    max_per_image: int | None = None
    """Maximum number of boxes per image, those with the highest scores; by default all."""
    implausible: Implausible = "refuse"
    """What to do with a file of boxes that look wrong as a whole; see --annotations.implausible."""
    grid: GridProposer | None = None
    """Without a detector: let SAM propose and score regions, prompted with a grid of points. {} for
    the defaults."""

    def __post_init__(self) -> None:
        if (self.path is None) == (self.grid is None):
            raise ConfigError(
                f"--proposals has the path {self.path} and the grid {self.grid}; wanted one of"
                " them: --proposals.path boxes.json for a detector's boxes, or --proposals.grid {}"
                " to let SAM propose regions."
            )
        if not 0 <= self.min_score <= 1 or (self.max_per_image or 1) < 1:
            raise ConfigError(
                f"--proposals.min_score is {self.min_score} and --proposals.max_per_image"
                f" {self.max_per_image}; wanted 0 to 1, and 1 or more."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """Run the frozen SAM and CLIP once over annotated images and store all that training needs."""

    output_dir: str
    """Folder of the cache, or its URL, such as s3://bucket/folder. An unfinished cache of the same
    images, models and settings is continued; any other cache there is refused and left
    unchanged."""
    annotations: AnnotationsConfig
    """The images and their regions."""
    proposals: ProposalsConfig | None = None
    """Boxes to cache in place of the annotated ones, for evaluation with a detector's boxes or with
    SAM's. They have no classes, so a head cannot be trained on them."""
    models: ModelsConfig = field(default_factory=ModelsConfig)
    """The frozen models."""
    templates: list[str] = field(default_factory=lambda: ["ensemble81"])
    """Template sets to embed the class names with, one text bank each: ensemble81, ensemble80,
    single or none. With the suffix -readable, underscores become spaces: bat_(animal), bat
    (animal). With -synonyms, the embedding of a class is the mean over all names that the
    annotations list for it (LVIS). More can be added later by running again."""
    same_tokens: SameTokens = "keep"
    """What to do with class names that CLIP's tokenizer cannot tell apart, such as Dog and dog:
    keep them, merge them into the first, or refuse them. The last lines list them. Merge for
    training, not for evaluation, which scores the classes of the annotation file."""
    unknown_words: Literal["refuse", "keep"] = "refuse"
    """What to do with words that the toy preset's tiny CLIP does not know (docs/toy_world.md lists
    its words): refuse them, or keep them, to try the pipeline on your own data. Predictions of such
    names are guesses."""
    images_per_shard: int = 1000
    """Images per shard, which is the most that an interruption can lose."""
    batch_size: int = 8
    """Images that go through SAM and CLIP at once; larger batches need more memory. The stored
    numbers may differ between batch sizes in their last bit."""
    codec: CodecName = "float16"
    """How feature maps are stored: float16; bfloat16, for encoders whose numbers do not fit into
    float16; or int8, half the size, with an error of about 1 % that the manifest states (each token
    keeps its 8 largest channels as float16)."""
    masks: bool = False
    """Whether to store SAM's mask of each region, at the image's size as COCO's compressed RLE (a
    few hundred bytes): for mask AP and pictures. SAM's mask decoder then runs twice per region."""
    device: str = "auto"
    """Where the models run: auto (CUDA if available, else the CPU), cpu, cuda or cuda:N."""
    exif_policy: ExifPolicy = "ignore"
    """Whether to apply or ignore the orientation in a photo's EXIF data. It must be what the
    annotators saw: LVIS, COCO, Objects365 and OpenImages annotate the pixels as stored."""
    max_image_pixels: int = 89_478_485
    """Leave out images with more pixels, height times width: half a megabyte of PNG can decode to
    more than fits in memory. The default is Pillow's own."""
    max_quarantined_share: float = 0.01
    """Stop when more than this share of all images is missing, damaged or of another size than
    annotated. Fewer are left out, each with its reason in quarantine.jsonl."""
    max_quarantined_in_a_row: int = 100
    """Also stop when this many images in a row are like that: most likely the folder of images is
    gone. They are not left out yet; the same command tries them again."""
    limit: int | None = None
    """Number of images, from the first one on; by default all."""
    reuse: str | None = None
    """Folder or URL of a finished cache of the same models and settings. For images that it also
    holds (same key, image id and size), feature maps are taken from there, and position tokens if
    it has all boxes: only new images and new boxes are computed. A cache of format 3, or without
    masks if --masks is true, gives only feature maps. The first such image of each shard goes
    through CLIP anyway, and the run stops if it looks like another image."""
    staging_dir: str | None = None
    """With a URL as output_dir: local folder to write shards to before they are published; it holds
    few at a time. Either new, or used for this URL before. By default a folder for this URL below
    $REGIONSPOT_HOME, $XDG_CACHE_HOME/regionspot or ~/.cache/regionspot."""
    part: str | None = None
    """Write only a part of the shards, so that several processes or machines with a common disk or
    bucket share the work: 2/8 is the second of eight; auto takes it from SLURM (array or step) or
    torchrun. The part that ends last finishes the cache. Run failed parts again, or run without
    --part to write the rest."""
    executor: Literal["local", "ray"] = "local"
    """What writes the shards: local, this process; or ray, the machines of a running Ray cluster,
    where all paths given here must be valid. Dead workers and lost machines are replaced by the
    remaining ones. Not for a URL as output_dir."""
    ray: RayConfig = field(default_factory=RayConfig)
    """The Ray cluster, for --executor ray."""

    def __post_init__(self) -> None:
        _check_positive(self, "images_per_shard", "batch_size", "limit")
        _check_positive(self, "max_image_pixels", "max_quarantined_in_a_row")
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
        if self.annotations.format == "openimages" and self.exif_policy == "apply":
            raise ConfigError(
                "--exif_policy is apply, but OpenImages' boxes refer to the pixels as stored, also"
                " if a photo is rotated: rotated photos would get wrong boxes. Leave it at ignore."
            )
        if self.proposals is not None and self.annotations.prompt != "box":
            raise ConfigError(
                f"--annotations.prompt is {self.annotations.prompt}, but proposals are boxes: leave"
                " one of the two out."
            )
        if self.part not in {None, AUTO}:
            Part.parse(str(self.part), {})
        self._check_executor()
        if not self.output_dir:
            raise ConfigError("--output_dir is empty; name the folder to write the cache to.")
        if self.reuse is not None and Path(self.reuse).resolve() == Path(self.output_dir).resolve():
            raise ConfigError(
                f"--reuse and --output_dir are both {self.output_dir}; wanted two folders, as a"
                " finished cache is never changed. Set --output_dir to a new one."
            )

    def _check_executor(self) -> None:
        if self.executor == "local":
            return
        if is_url(self.output_dir):
            raise ConfigError(
                f"--executor is ray and --output_dir {self.output_dir}; wanted a folder on a disk"
                " that all machines of the cluster share: its locks keep two workers off one shard."
                " For a cache behind a URL, give each machine its --part (1/8 to 8/8) instead."
            )
        if self.part is not None:
            raise ConfigError(
                f"--executor is ray and --part is {self.part}, but Ray already divides the work"
                " among its machines. Leave one of the two out."
            )
        if self.device.startswith("cuda:"):
            raise ConfigError(
                f"--device is {self.device}, but Ray chooses each worker's GPU. Give cuda, or leave"
                " it out."
            )
