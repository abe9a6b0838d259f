"""The options of ``evaluate.py``; the texts below the fields are its ``--help``."""

import re
from dataclasses import dataclass, field
from typing import Literal, get_args

from regionspot.backbones.presets import ModelsConfig
from regionspot.core.errors import ConfigError
from regionspot.scoring import Metric, Protocol, Scorer, check_num_draws, check_scorer

DEFAULT_HEAD_NAME = "fusion_head"
PredictionFiles = Literal["first", "all", "none"]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig:
    """Score trained heads, and methods without a head, on one cached data set.

    Raises:
        ConfigError: There is nothing to evaluate, a name is unusable or repeated, or methods from
            pixels lack the images or the models.
    """

    cache: str
    """Folder or URL of the feature cache of the images to evaluate on."""
    output_dir: str
    """Folder for metrics.json, per_category.csv, predictions, report.html and named_regions.jpg."""
    annotations: str | None = None
    """The annotation file that the cache was made from, or its URL. LVIS AP needs it. Other data is
    scored by the regions in the cache; the file then only tells where the images are."""
    image_ids: str | None = None
    """File of the ids of the images that count, such as LVIS minival: a JSON list, an LVIS or COCO
    file, or text with one id a line. Default: all images of the cache."""
    metric: Metric | None = None
    """lvis (federated, with APr, APc, APf) or coco (every class counts in every image). Default:
    lvis for a cache of LVIS annotations, else coco."""
    scorer: Scorer = "hotcoco"
    """hotcoco, or reference: the evaluators of lvis and pycocotools. The figures are the same; the
    references take far longer."""
    bootstrap: int = 0
    """Draws of images for 95 % intervals of AP and of its differences, e.g. 200; 0 for none."""
    retrieval: bool = False
    """Whether to score retrieval, too: class names rank all regions. Keeps all probabilities in
    memory: 4 bytes for each region and class, 1.2 GB for LVIS val."""
    checkpoints: list[str] = field(default_factory=list)
    """Trained heads, each as name=path or just path (its name is then fusion_head). A path is a
    run's folder, its head/ folder, or a .ckpt or .safetensors file. The first is the one in the
    spotlight of the report."""
    methods: list[str] = field(default_factory=list)
    """Methods without a head, from pixels: clip_box_crop, clip_mask_crop (the paper's baselines),
    grey_outside_mask, pooled_patches (controls)."""
    results: list[str] = field(default_factory=list)
    """Results of other systems, each as name=path: JSON files in the LVIS or COCO results format,
    with the ids of the annotation file. They are scored beside the other methods."""
    images_dir: str | None = None
    """Folder of the images, as it was when the cache was made; needed by the methods from pixels
    and for the pictures of the report."""
    models: ModelsConfig | None = None
    """The frozen models of the cache; needed by the methods from pixels only."""
    protocol: Protocol = "flattened_top300"
    """Which (box, class) pairs are scored: flattened_top300, top1, or ap_fixed (LVIS only). Never
    compare figures of different protocols."""
    templates: str = "ensemble81"
    """Which of the cache's text banks to compare with, the same for all methods."""
    batch_size: int = 16
    """Images that a head scores at once; changes the speed only."""
    device: str = "auto"
    """Where models run: auto (CUDA where there is any, else the CPU), cpu, cuda or cuda:N."""
    title: str = "RegionSpot evaluation"
    """Heading of the report."""
    notes: list[str] = field(default_factory=list)
    """Sentences for the report on how to read the figures."""
    predictions: PredictionFiles = "first"
    """Which predictions to write: first (predictions.json of the first method), all (of the others
    predictions_<name>.json, too) or none."""
    num_pictures: int = 8
    """Sampled images in the report; half as many show the most confident mistakes. 0 for none."""
    training_dirs: list[str] = field(default_factory=list)
    """The trainer's default_root_dir of each stage of the training, for the report's curves."""
    steps: str | None = None
    """A file of earlier steps with their commands and times (quickstart's steps.json), for the
    report."""

    def __post_init__(self) -> None:
        if not self.checkpoints and not self.methods and not self.results:
            raise ConfigError(
                "there is nothing to evaluate. Name a trained head (--checkpoints"
                " '[fusion_head=runs/my_run]'), a method (--methods '[clip_box_crop]') or a file of"
                " results (--results '[glip=glip.json]')."
            )
        if self.batch_size < 1 or self.num_pictures < 0:
            raise ConfigError(
                f"--batch_size is {self.batch_size} and --num_pictures {self.num_pictures}; wanted"
                " 1 or more, and 0 or more."
            )
        if self.metric not in (None, *get_args(Metric)):
            raise ConfigError(f"there is no metric {self.metric!r}. Set --metric to lvis or coco.")
        if self.predictions not in get_args(PredictionFiles):
            raise ConfigError(f"--predictions is {self.predictions!r}; wanted first, all or none.")
        check_scorer(self.scorer)
        check_num_draws(self.bootstrap)
        names = [
            *(_name_and_path(text)[0] for text in self.checkpoints),
            *self.methods,
            *self.results_files,
        ]
        if len(set(names)) != len(names) or len(self.results_files) != len(self.results):
            raise ConfigError(
                f"--checkpoints {self.checkpoints}, --methods {self.methods} and --results"
                f" {self.results} give a name twice; name each by name=path."
            )
        if self.methods and (self.images_dir is None or self.models is None):
            raise ConfigError(
                f"--methods {self.methods} work on pixels. Set --images_dir to the folder of the"
                " images and --models.preset to the models that made the cache, or leave them out."
            )

    @property
    def heads(self) -> dict[str, str]:
        """The paths of the trained heads by name, in order."""
        return dict(_name_and_path(text) for text in self.checkpoints)

    @property
    def results_files(self) -> dict[str, str]:
        """The paths of the results files by name, in order."""
        found = {}
        for text in self.results:
            name, equals, path = text.partition("=")
            if not equals or not _NAME.fullmatch(name) or not path:
                raise ConfigError(
                    f"--results holds {text!r}; wanted name=path, with a name of letters, digits,"
                    " '_', '-' and '.'."
                )
            found[name] = path
        return found


def _name_and_path(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not equals:
        return DEFAULT_HEAD_NAME, text
    if not _NAME.fullmatch(name) or not path:
        raise ConfigError(
            f"--checkpoints holds {text!r}; wanted name=path, with a name of letters, digits, '_',"
            " '-' and '.'."
        )
    return name, path
