"""The options of ``cache_features.py``; the texts below the fields are its ``--help``."""

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
    """Where the Ray cluster is, and what its workers get. A worker has one copy of the models.

    Raises:
        ConfigError: The address is none, or a number is out of its range.
    """

    address: str = AUTO
    """The running cluster: auto finds the one that this machine belongs to (or the one that the
    environment variable RAY_ADDRESS names); or its head's host:port."""
    num_workers: int | None = None
    """Workers; by default as many as the cluster has room for."""
    cpus_per_worker: int | None = None
    """CPU cores, and threads, of a worker; by default those that belong to a GPU on the machine
    that has fewest, without GPUs all of the smallest machine. The number of threads may change the
    last bit of what a CPU computes."""
    gpus_per_worker: float | None = None
    """GPUs of a worker; by default 1 where the cluster has any, and 0 with --device cpu. 0.5 puts
    two workers on one."""

    def __post_init__(self) -> None:
        if self.address != AUTO and _HOST_PORT.fullmatch(self.address) is None:
            raise ConfigError(
                f"--ray.address is {self.address!r}; wanted auto, or host:port of the cluster's"
                " head, such as 10.0.0.1:6379, on a machine of the cluster (ray:// is for machines"
                " outside, which cannot write to its disk)."
            )
        for name in ("num_workers", "cpus_per_worker"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--ray.{name} is {value}; wanted 1 or more.")
        if self.gpus_per_worker is not None and self.gpus_per_worker < 0:
            raise ConfigError(f"--ray.gpus_per_worker is {self.gpus_per_worker}; wanted 0 or more.")


ExecutorName = Literal["local", "ray"]


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
    """The annotation file, as its authors publish it (unpacked). This and all other files may be
    URLs: they are fetched once, and again when they change there."""
    images_dir: str
    """Folder that the file names in the annotation file are relative to. LVIS v1: the folder that
    holds COCO's train2017 and val2017. Objects365: the folder that its archives were unpacked to,
    whether or not they lie in images/v1 there. OpenImages: the folder of the <ImageID>.jpg. V3Det:
    the folder that holds its folder images. It may be a URL (s3://, gs://, https://): images are
    then read as they are needed, and not kept; for Objects365 their paths have to be those in the
    file."""
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
    tree_path: str | None = None
    """v3det: v3det_2023_v1_category_tree.json, to keep in the cache which classes are kinds of
    which."""
    prompt: Prompt = "box"
    """What of a region SAM is shown: its box; mask, the shape of its segmentation; box_and_mask; or
    points, its point_coords (with point_labels, 1 in the region and 0 not in it) or keypoints. All
    but box only for coco and lvis. Regions without what is to be shown are dropped and counted."""
    classes: Literal["annotated"] | list[str] | None = None
    """Which classes of the file make the vocabulary: annotated, those that have a region; or a list
    of names, [cat, dog]: regions of others are dropped and counted. By default all of them, also
    those that nobody annotated, which the last lines name."""
    implausible: Implausible = "refuse"
    """What to do with annotations that look wrong as a whole (more than 90 % of them do not fit, or
    their boxes look normalised, or of another order, or of other images): refuse stops before
    anything is cached; accept goes on, and the last lines say what is odd."""

    def __post_init__(self) -> None:
        check_options(self.format, self.read_options())

    def read_options(self, locate: Callable[[str], Path] = Path) -> ReadOptions:
        """Return what is passed on to the format's reader.

        Args:
            locate: Finds the file on this machine that an option names.
        """

        def located(location: str | None) -> Path | None:
            return None if location is None else locate(location)

        return ReadOptions(
            crowds=None if self.crowds == "keep" else self.crowds,
            classes_path=located(self.classes_path),
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
    """Boxes with scores in place of the annotated ones: a detector's, or found on a grid by SAM.

    Raises:
        ConfigError: Not exactly one of path and grid is given, or a number is out of its range.
    """

    path: str | None = None
    """A detector's boxes: COCO or LVIS results, or GLIP's layout, as JSON."""
    format: ProposalFormat = "auto"
    """Layout of the file: auto (told by its content), coco (also LVIS) or glip."""
    min_score: float = 0.0
    """Leave out boxes of the file with a lower score."""
    max_per_image: int | None = None
    """Keep only the best so many boxes of the file an image; by default all."""
    implausible: Implausible = "refuse"
    """What to do with a file of boxes that look wrong as a whole; see the option of the same name
    for annotations."""
    grid: GridProposer | None = None
    """No detector: SAM is asked at the points of a grid, and rates what it finds. {} for its
    defaults."""

    def __post_init__(self) -> None:
        if (self.path is None) == (self.grid is None):
            raise ConfigError(
                f"--proposals has the path {self.path} and the grid {self.grid}; wanted one of"
                " them: --proposals.path boxes.json for a detector's boxes, or --proposals.grid {}"
                " to let SAM find regions."
            )
        if not 0 <= self.min_score <= 1 or (self.max_per_image or 1) < 1:
            raise ConfigError(
                f"--proposals.min_score is {self.min_score} and --proposals.max_per_image"
                f" {self.max_per_image}; wanted 0 to 1, and 1 or more."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """Run the frozen SAM and CLIP once over annotated images and store all that training needs.

    Raises:
        ConfigError: A number is out of its range, or no template set is named.
    """

    output_dir: str
    """Folder of the cache, or its URL, such as s3://bucket/folder. If it holds an unfinished cache
    of the same images, models and settings, that one is finished; a cache of anything else is
    refused, not touched."""
    annotations: AnnotationsConfig
    """The images and their regions."""
    proposals: ProposalsConfig | None = None
    """Boxes to cache in place of the annotated ones, for evaluation with a detector's boxes or
    without any; a head cannot be trained on them, as nobody knows their class."""
    models: ModelsConfig = field(default_factory=ModelsConfig)
    """The frozen models."""
    templates: list[str] = field(default_factory=lambda: ["ensemble81"])
    """Template sets to embed the class names with, each a text bank: ensemble81, ensemble80, single
    or none; with -readable at its end underscores become spaces: bat_(animal), bat (animal); with
    -synonyms at the end a class is the mean over all names that the annotations list for it (LVIS).
    More can be added later by running again."""
    same_tokens: SameTokens = "keep"
    """What to do about class names that CLIP's tokenizer makes one of, such as Dog and dog: keep
    them as they are, merge them into the first, or refuse them. The last lines say which they are.
    Merge for training, not for evaluation, which scores the classes of the annotation file."""
    unknown_words: Literal["refuse", "keep"] = "refuse"
    """What to do about words that the toy preset's tiny CLIP does not know (docs/toy_world.md lists
    those that it knows): refuse them, or keep them, to try the pipeline on data of your own. Names
    made of them are guesses then."""
    images_per_shard: int = 1000
    """Images in one shard, which is what an interruption loses at most."""
    batch_size: int = 8
    """Images that go through SAM and CLIP at once: the larger, the more memory. The stored numbers
    may differ between batch sizes in their last bit."""
    codec: CodecName = "float16"
    """How feature maps are stored: float16; bfloat16, for encoders whose numbers do not fit into
    float16; or int8, half the size, for an error of about 1 % that the manifest states (each token
    keeps its 8 largest channels as float16)."""
    device: str = "auto"
    """Where the models run: auto (CUDA where there is any, else the CPU), cpu, cuda or cuda:N."""
    exif_policy: ExifPolicy = "ignore"
    """Whether the orientation in a photo's EXIF data turns the image (apply) or not (ignore). It
    must be what the annotators saw: LVIS, COCO, Objects365 and OpenImages annotate the pixels as
    stored."""
    max_image_pixels: int = 89_478_485
    """Leave out images of more pixels, height times width: half a megabyte of PNG may hold so many
    that they fill the memory. The default is Pillow's own."""
    max_quarantined_share: float = 0.01
    """Stop when more than this share of all images is missing, damaged or of another size than
    annotated. Fewer are left out, each with its reason in quarantine.jsonl."""
    max_quarantined_in_a_row: int = 100
    """Stop, too, when so many images that follow each other are like that: the folder of the images
    is gone, most likely. These are not left out yet, and the same command goes on with them."""
    limit: int | None = None
    """Take only the first so many images; by default all."""
    reuse: str | None = None
    """Folder or URL of a finished cache of the same models and settings. Of images that it holds,
    too (the same key, image id and size), feature maps are taken from there, and position tokens
    where all boxes are known there: new images and new boxes cost only what is new. The first such
    image of each shard goes through CLIP anyway, and is refused if it looks like another image."""
    staging_dir: str | None = None
    """For an output_dir behind a URL: the folder of this machine in which shards are written before
    they are published; it holds few at a time. A new one, or one that was used for this URL before.
    By default one of the URL's own below $REGIONSPOT_HOME, $XDG_CACHE_HOME/regionspot or
    ~/.cache/regionspot."""
    part: str | None = None
    """Make only a part of the shards, so that many processes or machines with one disk or bucket
    share the work: 2/8 is the second of eight; auto takes it from SLURM (array or step) or
    torchrun. The part that ends last finishes the cache; parts that failed are given again, or the
    command without --part does the rest."""
    executor: ExecutorName = "local"
    """Who makes the shards: local, this process; or ray, the machines of a running Ray cluster, all
    of which see the folders named here under the same names. Dead workers and lost machines are
    replaced by what remains. Not for an output_dir behind a URL."""
    ray: RayConfig = field(default_factory=RayConfig)
    """The Ray cluster, for --executor ray."""

    def __post_init__(self) -> None:
        for name in (
            *("images_per_shard", "batch_size", "limit"),
            *("max_image_pixels", "max_quarantined_in_a_row"),
        ):
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
        if self.annotations.format == "openimages" and self.exif_policy == "apply":
            raise ConfigError(
                "--exif_policy is apply, but OpenImages' boxes refer to the pixels as stored, also"
                " where a photo is rotated: turned photos would get wrong boxes. Leave it at"
                " ignore."
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
                f"--executor is ray and --part is {self.part}: the cluster shares the work among"
                " its machines by itself. Leave one of the two out."
            )
        if self.device.startswith("cuda:"):
            raise ConfigError(
                f"--device is {self.device}, but Ray chooses each worker's GPU. Give cuda, or leave"
                " it out."
            )
