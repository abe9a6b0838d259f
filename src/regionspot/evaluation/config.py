"""The options of ``evaluate.py``; the texts below the fields are its ``--help``."""

import re
from dataclasses import dataclass, field
from typing import Literal, get_args

from regionspot.backbones.presets import ModelsConfig
from regionspot.core.errors import ConfigError
from regionspot.scoring import (
    IouType,
    Metric,
    Protocol,
    Scorer,
    ScoreRule,
    check_iou_type,
    check_num_draws,
    check_score_rule,
    check_scorer,
)

DEFAULT_HEAD_NAME = "fusion_head"
PredictionFiles = Literal["first", "all", "none"]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig:
    """Evaluate trained heads, and methods without a head, on one cached data set.

    Raises:
        ConfigError: There is nothing to evaluate, a name is invalid or repeated, or methods from
            pixels lack the images or the models.
    """

    cache: str
    """Folder or URL of the feature cache of the images to evaluate on."""
    output_dir: str
    """Folder to write metrics, predictions, report.html and named_regions.jpg to."""
    annotations: str | None = None
    """Path or URL of the annotation file that the cache was made from. Required for LVIS AP. Other
    data is scored on the regions in the cache, and the file is only used to find the images."""
    image_ids: str | None = None
    """File of the ids of the images that count, such as LVIS minival: a JSON list, an LVIS or COCO
    file, or text with one id a line. Default: all images of the cache."""
    metric: Metric | None = None
    """AP to compute: lvis (federated, with APr, APc, APf) or coco (every class counts in every
    image). By default lvis for a cache of LVIS annotations, else coco."""
    iou_type: IouType = "bbox"
    """What AP compares: boxes (bbox) or masks (segm, mask AP). segm needs --annotations in LVIS or
    COCO format with segmentations, and SAM's masks of the regions: from a cache that was made with
    --masks true, or from pixels by --images_dir and --models."""
    scorer: Scorer = "hotcoco"
    """Implementation of AP: hotcoco, or reference for lvis and pycocotools. The results are the
    same, but the reference implementations are far slower."""
    bootstrap: int = 0
    """Number of bootstrap samples of the images, such as 200, for 95 % confidence intervals of AP
    and of differences in AP. 0 disables them."""
    retrieval: bool = False
    """Also score retrieval, where each class name ranks all regions. Keeps all probabilities in
    memory: 4 bytes per region and class, 1.2 GB for LVIS val."""
    checkpoints: list[str] = field(default_factory=list)
    """Trained heads, each as name=path, or as path with the name fusion_head. A path is the folder
    of a run, its head/ folder, or a .ckpt or .safetensors file; or hf://owner/name on the Hugging
    Face Hub. The report focuses on the first."""
    methods: list[str] = field(default_factory=list)
    """Methods without a head, from pixels: clip_box_crop, clip_mask_crop (the paper's baselines),
    grey_outside_mask, pooled_patches (controls)."""
    results: list[str] = field(default_factory=list)
    """Results of other systems to score, each as name=path: JSON files in the LVIS or COCO results
    format, with the ids of the annotation file."""
    class_groups: str | None = None
    """JSON file of groups of classes, {"animals": ["cat", "dog"]}; AP of each group is reported.
    The classes that no head was trained on are a group (unseen) without this."""
    images_dir: str | None = None
    """Folder of the images, unchanged since the cache was made. Required for methods from pixels
    and for the pictures in the report."""
    models: ModelsConfig | None = None
    """The frozen models of the cache. Only required for methods from pixels, and for mask AP of a
    cache without masks."""
    protocol: Protocol = "flattened_top300"
    """Which (box, class) pairs are scored: flattened_top300, top1 or ap_fixed (LVIS only). Results
    of different protocols are not comparable."""
    score_rule: ScoreRule = "box_score"
    """Score of a (box, class) pair: box_score (class probability times the score of the box, which
    is 1 for annotated boxes), probability (without it), or tap (Tokenize Anything: square root of
    probability times SAM's predicted IoU, with NMS within each class; needs a cache that stores the
    predicted IoU). Results of different rules are not comparable. Does not affect --results."""
    templates: str = "ensemble81"
    """Template set of the text bank to classify with, the same for all methods."""
    batch_size: int = 16
    """Number of images that a head scores at once. Affects only the speed."""
    device: str = "auto"
    """Where models run: auto (CUDA if available, else the CPU), cpu, cuda or cuda:N."""
    title: str = "RegionSpot evaluation"
    """Heading of the report."""
    notes: list[str] = field(default_factory=list)
    """Sentences to print in the report, for instance on how to read the results."""
    predictions: PredictionFiles = "first"
    """Which predictions to write: those of the first method (predictions.json), all (also
    predictions_<name>.json of the others) or none."""
    num_pictures: int = 8
    """Number of images in the report, at even distances in the cache. Half as many more show the
    most confident mistakes. 0 disables the pictures."""
    training_dirs: list[str] = field(default_factory=list)
    """The trainer.default_root_dir of each training stage, for the curves in the report."""
    steps: str | None = None
    """File with commands and times of earlier steps (quickstart's steps.json), for the report."""

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
        check_iou_type(self.iou_type)
        if self.iou_type == "segm" and self.annotations is None:
            raise ConfigError(
                "--iou_type segm compares masks with annotated ones, which no cache holds. Set"
                " --annotations to the LVIS or COCO file of the cache, or --iou_type to bbox."
            )
        check_score_rule(self.score_rule, protocol=self.protocol)
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
