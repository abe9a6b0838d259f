"""Runs the methods of an evaluation: class scores in, predictions and named regions out."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, cast, get_args

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from regionspot.backbones import FrozenModels, resolve_device
from regionspot.core.errors import ConfigError
from regionspot.core.region_scores import RegionScores
from regionspot.core.stopping import check_stop, safe_points
from regionspot.evaluation.config import EvalConfig
from regionspot.evaluation.data import EvaluationData
from regionspot.evaluation.from_pixels import load_models, prompted_images
from regionspot.evaluation.other_results import read_results
from regionspot.evaluation.region_details import (
    RegionDetails,
    masks_from_pixels,
    read_region_details,
)
from regionspot.inference import score_cached, score_pixel_methods
from regionspot.inference.clip_crops import PixelMethod
from regionspot.model import TrainedHead, load_trained_head
from regionspot.scoring import (
    IouType,
    NamedRegions,
    Predictions,
    Protocol,
    best_of_each_class,
    emit_predictions,
)

_Item = TypeVar("_Item")
_MAX_PENDING = 4_000_000  # pairs of AP-fixed that are held before only the best are kept
_REGIONS: dict[IouType, str] = {"bbox": "its own boxes", "segm": "its own masks"}
_DESCRIPTIONS: dict[PixelMethod, str] = {
    "clip_box_crop": "CLIP's image embedding of the cropped box; baseline of the paper.",
    "clip_mask_crop": "The same, grey outside SAM's mask; baseline of the paper.",
    "grey_outside_mask": "The whole image at its own size, grey outside SAM's mask; control.",
    "pooled_patches": "CLIP's patch tokens pooled over the box, nothing trained; control.",
}


@dataclass(slots=True, kw_only=True)
class MethodOutput:
    """What one method said about all images; scores themselves are not kept."""

    name: str
    """What the method is called."""
    description: str
    """What it does, in one sentence."""
    parts: list[Predictions] = field(default_factory=list)
    """Predictions by image."""
    named: dict[int, NamedRegions] = field(default_factory=dict)
    """What it called the regions of each image, by image id, in the cache's order; {} for results
    files, whose boxes are their own."""
    scores: list[NDArray[np.float32]] = field(default_factory=list)
    """Class probabilities of the regions of each image, in the same order; [] unless retrieval is
    scored."""
    _num_pending: int = 0

    def add(self, scores: RegionScores, data: EvaluationData, config: EvalConfig) -> None:
        """Take over one image's scores."""
        protocol = config.protocol
        if config.retrieval:
            self.scores.append(scores.scores)
        category_ids = data.cache.manifest.category_ids
        self.parts.append(
            emit_predictions(
                [scores], category_ids, protocol=protocol, score_rule=config.score_rule
            )
        )
        self._num_pending += len(self.parts[-1])
        if protocol == "ap_fixed" and self._num_pending > _MAX_PENDING:
            self.parts, self._num_pending = [self.predictions(protocol)], 0
        self.named[scores.image_id] = NamedRegions.of_scores(scores, data.labels[scores.image_id])

    def predictions(self, protocol: Protocol) -> Predictions:
        """Join the predictions of all images, as far as the protocol scores them."""
        found = Predictions.concatenate(self.parts)
        return best_of_each_class(found) if protocol == "ap_fixed" else found


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodRun:
    """All methods of an evaluation, run."""

    outputs: tuple[MethodOutput, ...]
    """What they said, heads first."""
    heads: Mapping[str, TrainedHead]
    """The trained heads by name."""
    timings_s: Mapping[str, float]
    """Seconds by what was run."""


def check_methods(methods: Sequence[str]) -> list[PixelMethod]:
    """Check the names of methods from pixels.

    Raises:
        ConfigError: A name is unknown.
    """
    known = get_args(PixelMethod)
    unknown = [name for name in methods if name not in known]
    if unknown:
        raise ConfigError(
            f"--methods holds {unknown}; there are {', '.join(known)}. Trained heads are given by"
            " --checkpoints."
        )
    return [cast("PixelMethod", name) for name in methods]


def run_methods(config: EvalConfig, data: EvaluationData) -> MethodRun:
    """Score all images by every method.

    Raises:
        ConfigError: A method is unknown, or cannot work on this cache.
        MissingFileError: A head or an image is not there.
        CacheMismatchError: A head or the models do not belong to the cache.
    """
    methods = check_methods(config.methods)
    # All models are loaded before the first is run: a mistyped path shows at once, not after hours.
    heads = {name: load_trained_head(p) for name, p in config.heads.items()}
    outputs: list[MethodOutput] = []
    timings: dict[str, float] = {}
    start = time.perf_counter()
    results = [
        MethodOutput(
            name=name,
            description=f"Results file {Path(path).name}, with {_REGIONS[config.iou_type]}.",
            parts=[read_results(Path(path), data, config.iou_type)],
        )
        for name, path in config.results_files.items()
    ]
    needs_masks = masks_from_pixels(config, data)
    models = load_models(config, data) if methods or needs_masks else None
    scored = _start_from_pixels(methods, models, config, data)
    loading_s = time.perf_counter() - start
    start = time.perf_counter()
    details = read_region_details(config, data, models if needs_masks else None)
    if needs_masks:
        timings["evaluate: masks from pixels"] = time.perf_counter() - start
    for name, head in heads.items():
        start = time.perf_counter()
        outputs.append(_run_head(name, head, config, data, details))
        timings[f"evaluate: {name}"] = time.perf_counter() - start
    if scored is not None:
        start = time.perf_counter()
        outputs += _run_from_pixels(methods, scored, config, data, details)
        seconds = loading_s + time.perf_counter() - start
        timings[f"evaluate: {', '.join(methods)} (one pass)"] = seconds
    return MethodRun(outputs=(*outputs, *results), heads=heads, timings_s=timings)


def _run_head(
    name: str,
    head: TrainedHead,
    config: EvalConfig,
    data: EvaluationData,
    details: RegionDetails,
) -> MethodOutput:
    scored = score_cached(
        head,
        data.cache,
        data.cache.text_bank(config.templates),
        positions=data.positions,
        batch_size=config.batch_size,
        device=resolve_device(config.device),
    )
    output = MethodOutput(name=name, description=_describe_head(head))
    with safe_points():
        for scores in _with_progress(scored, name, len(data.positions)):
            output.add(details.added_to(scores), data, config)
            check_stop()
    return output


def _start_from_pixels(
    methods: Sequence[PixelMethod],
    models: FrozenModels | None,
    config: EvalConfig,
    data: EvaluationData,
) -> Iterator[Mapping[PixelMethod, RegionScores]] | None:
    """Check what methods from pixels need; no image is looked at yet."""
    if not methods or models is None:
        return None
    return score_pixel_methods(
        models, prompted_images(data), data.cache.text_bank(config.templates), methods=methods
    )


def _run_from_pixels(
    methods: Sequence[PixelMethod],
    scored: Iterator[Mapping[PixelMethod, RegionScores]],
    config: EvalConfig,
    data: EvaluationData,
    details: RegionDetails,
) -> list[MethodOutput]:
    outputs = {
        method: MethodOutput(name=method, description=_DESCRIPTIONS[method]) for method in methods
    }
    with safe_points():
        for by_method in _with_progress(scored, "methods from pixels", len(data.positions)):
            for method, scores in by_method.items():
                outputs[method].add(details.added_to(scores), data, config)
            check_stop()
    return list(outputs.values())


def _describe_head(head: TrainedHead) -> str:
    training = head.card.training
    caches, steps = training.get("caches"), training.get("steps")
    guidance = head.card.head.guidance
    details = [f"guidance {guidance}," if guidance != "none" else ""]
    details.append(f"{steps:,} steps" if isinstance(steps, int) else "")
    details.append(f"on {', '.join(map(str, caches))}" if isinstance(caches, list) else "")
    told = " ".join(detail for detail in details if detail)
    return f"The trained head, from the feature cache{f' ({told})' if told else ''}."


def _with_progress(items: Iterable[_Item], name: str, total: int) -> Iterable[_Item]:
    # `disable=None` keeps log files free of progress bars.
    return tqdm(items, desc=name, total=total, unit=" images", disable=None)
