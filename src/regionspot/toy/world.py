"""Writes a world: three training data sets and one for validation, all in LVIS v1 format.

    <world>/world.json                   its arguments; written last
    <world>/<split>.json                 LVIS v1 annotations
    <world>/<split>/<image id>.jpg       images; ``coco_url`` ends in these two components

``toy365``, ``toyoi`` and ``toyv3d`` stand for Objects365 (few frequent classes, many objects per
image), OpenImages and V3Det (a long tail). Twenty of the rarer classes are in no training set. Use
different seeds for choosing hyperparameters and for reporting.
"""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

from regionspot.core.errors import ConfigError
from regionspot.core.files import write_text_atomic
from regionspot.core.stopping import check_stop, interrupts_blocked, safe_points, wait_for
from regionspot.toy.names import vocabulary, zipf
from regionspot.toy.records import (
    AnnotationEntry,
    ImageEntry,
    annotation_entries,
    category_entries,
    federate,
    image_entry,
    number_annotations,
)
from regionspot.toy.scenes import ClassMix, sample_scene

_LOG = logging.getLogger(__name__)

TRAINING_SPLITS = ("toy365", "toyoi", "toyv3d")
VALIDATION_SPLIT = "val"
SCHEMA_VERSION = 1

_STREAM = 0x7002
"""First word of all seeds here; the towers' training pool uses another one."""
_NUM_HELD_OUT = 20
_MOST_IMAGES = 100_000
_JPEG_QUALITY = 92
_CHUNK = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldArguments:
    """The arguments that determine the bytes of a world, for given versions of numpy and OpenCV."""

    seed: int
    """Seed of the world, at least 0."""
    num_val: int = 500
    """Number of images of ``val``."""
    num_train: int = 1200
    """Number of images of each training source."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ConfigError(f"the world's seed is {self.seed}; give 0 or more.")
        for name, value in (("num_val", self.num_val), ("num_train", self.num_train)):
            if not 1 <= value <= _MOST_IMAGES:
                raise ConfigError(f"{name} is {value}; give 1 to {_MOST_IMAGES} images.")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Split:
    """How one data set is drawn."""

    name: str
    first_id: int
    num_images: int
    mix: ClassMix


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rendered:
    """Records of consecutive images whose files are written."""

    images: list[ImageEntry]
    annotations: list[AnnotationEntry]


def held_out_classes() -> tuple[str, ...]:
    """Return the 20 classes, among the rarer ones, that no training source shows or labels."""
    names = vocabulary()
    return tuple(names[-1 - 3 * i] for i in range(_NUM_HELD_OUT))


def generate_world(
    output_dir: Path,
    *,
    seed: int,
    num_val: int = 500,
    num_train: int = 1200,
    num_processes: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a world; its bytes depend only on ``seed``, ``num_val`` and ``num_train``.

    Args:
        output_dir: Folder of the world; created if necessary. A former world is overwritten.
        seed: Seed of the world, at least 0.
        num_val: Number of images of ``val``, 1 to 100,000.
        num_train: Number of images of each of the three training sources, 1 to 100,000.
        num_processes: Number of processes that render.
        on_progress: Called with the number of finished and of all images.

    Raises:
        ConfigError: A number is out of range, or the folder holds something else.
        StoppedError: A signal was noted; the folder then does not look finished.
    """
    arguments = WorldArguments(seed=seed, num_val=num_val, num_train=num_train)
    _check_world_or_empty(output_dir)
    # While files change, the folder must not look finished, but still count as a world.
    facts = {"schema_version": SCHEMA_VERSION, **asdict(arguments)}
    _write_facts(output_dir, {**facts, "is_unfinished": True})
    splits = _splits(arguments)
    total = sum(split.num_images for split in splits)
    finished = 0
    rendered: dict[str, _Rendered] = {}
    with safe_points():
        for split in splits:
            (output_dir / split.name).mkdir(parents=True, exist_ok=True)
            whole = rendered[split.name] = _Rendered(images=[], annotations=[])
            for part in _render(output_dir, split, seed, num_processes):
                whole.images.extend(part.images)
                whole.annotations.extend(part.annotations)
                finished += len(part.images)
                if on_progress is not None:
                    on_progress(finished, total)
            _LOG.info("%s: %d images", split.name, split.num_images)
    _write_annotations(output_dir, splits, rendered)
    _write_facts(output_dir, facts)


def world_is_complete(output_dir: Path, arguments: WorldArguments) -> bool:
    """Return whether a folder holds the complete world of these arguments and this schema."""
    if _read_facts(output_dir) != {"schema_version": SCHEMA_VERSION, **asdict(arguments)}:
        return False
    return all(
        (output_dir / f"{split.name}.json").is_file()
        and all(
            _image_path(output_dir, split, split.first_id + number).is_file()
            for number in range(split.num_images)
        )
        for split in _splits(arguments)
    )


def _check_world_or_empty(output_dir: Path) -> None:
    """Refuse a folder of something else, whose files might be overwritten."""
    if not output_dir.is_dir() or "schema_version" in _read_facts(output_dir):
        return
    strange = sorted(path.name for path in output_dir.iterdir() if path.name != "world.json.tmp")
    if strange:
        raise ConfigError(
            f"{output_dir} is no toy world, and not empty either: it holds"
            f" {', '.join(strange[:5])}. Nothing was touched. Give a new folder as --output_dir."
        )


def _read_facts(output_dir: Path) -> dict[str, object]:
    """Return the arguments of the world in a folder; empty if there is none."""
    try:
        facts = json.loads((output_dir / "world.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _write_facts(output_dir: Path, facts: Mapping[str, object]) -> None:
    write_text_atomic(output_dir / "world.json", json.dumps(facts, indent=2) + "\n")


def _splits(arguments: WorldArguments) -> list[_Split]:
    """Return the four data sets."""
    names, held_out = vocabulary(), set(held_out_classes())
    labelled = tuple(name for name in names if name not in held_out)
    # Name, first image id, classes, exponent of Zipf's law, number of objects.
    table: list[tuple[str, int, Sequence[str], float, tuple[int, int]]] = [
        ("toy365", 100_000, names[:40], 0.3, (4, 7)),
        ("toyoi", 200_000, names[:90], 0.5, (3, 6)),
        ("toyv3d", 300_000, labelled, 0.6, (2, 4)),
        (VALIDATION_SPLIT, 900_000, names, 0.35, (3, 6)),
    ]
    return [
        _Split(
            name=name,
            first_id=first_id,
            num_images=arguments.num_val if name == VALIDATION_SPLIT else arguments.num_train,
            mix=ClassMix(
                names=pool, probabilities=zipf(len(pool), exponent), num_objects=num_objects
            ),
        )
        for name, first_id, pool, exponent, num_objects in table
    ]


def _render(output_dir: Path, split: _Split, seed: int, num_processes: int) -> Iterator[_Rendered]:
    """Render a split in order, 100 images at a time."""
    work = partial(_render_chunk, output_dir=output_dir, split=split, seed=seed)
    starts = range(0, split.num_images, _CHUNK)
    if min(num_processes, len(starts)) == 1:
        for start in starts:
            check_stop()
            yield work(start)
        return
    with ProcessPoolExecutor(num_processes, mp_context=get_context("spawn")) as executor:
        try:
            with interrupts_blocked():
                parts = [executor.submit(work, start) for start in starts]
            yield from map(wait_for, parts)
        except BrokenProcessPool:
            check_stop()  # all processes got SIGTERM
            raise
        finally:
            executor.shutdown(wait=True, cancel_futures=True)


def _render_chunk(start: int, *, output_dir: Path, split: _Split, seed: int) -> _Rendered:
    """Draw and write some images, each with its own random stream."""
    # OpenCV's own threads only slow it down on images this small.
    cv2.setNumThreads(0)
    part = _Rendered(images=[], annotations=[])
    for image_id in range(
        split.first_id + start, split.first_id + min(start + _CHUNK, split.num_images)
    ):
        rng = np.random.default_rng([_STREAM, seed, image_id])
        scene = sample_scene(rng, split.mix)
        entry = image_entry(scene, image_id, split.name)
        if split.name == VALIDATION_SPLIT:
            federate(entry, scene, rng)
        part.images.append(entry)
        part.annotations.extend(annotation_entries(scene, entry))
        jpeg = simplejpeg.encode_jpeg(
            np.ascontiguousarray(scene.image), _JPEG_QUALITY, "RGB", "420"
        )
        _image_path(output_dir, split, image_id).write_bytes(jpeg)
    return part


def _image_path(output_dir: Path, split: _Split, image_id: int) -> Path:
    return output_dir / split.name / f"{image_id:012d}.jpg"


def _write_annotations(
    output_dir: Path, splits: Sequence[_Split], rendered: dict[str, _Rendered]
) -> None:
    """Write one LVIS file per split; class frequencies are those of all training sources."""
    trained = [one for name in TRAINING_SPLITS for one in rendered[name].annotations]
    instance_counts = Counter(one["category_id"] for one in trained)
    pairs = {(one["image_id"], one["category_id"]) for one in trained}
    image_counts = Counter(category for _, category in pairs)
    for split in splits:
        part = rendered[split.name]
        number_annotations(part.annotations)
        content = {
            "info": {"description": f"RegionSpot toy world: {split.name}"},
            "licenses": [],
            "images": part.images,
            "annotations": part.annotations,
            "categories": category_entries(split.mix.names, image_counts, instance_counts),
        }
        write_text_atomic(output_dir / f"{split.name}.json", json.dumps(content) + "\n")
