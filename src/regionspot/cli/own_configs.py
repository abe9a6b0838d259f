"""The configurations that ``regionspot init`` writes for a user's own data set."""

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import yaml

from regionspot.annotations import FORMATS, AnnotatedImages, FoundAnnotations
from regionspot.cli.shipped_configs import shipped_text
from regionspot.core.errors import ConfigError
from regionspot.core.files import write_text_atomic

_CONFIGS = ("cache_train", "cache_val", "train", "evaluate")
_HEADER = "# Written by regionspot init for {folder}. Edit it freely.\n"
_BATCH_SIZE = 32
_OWN_IMAGES, _OWN_TRAINED = 3_200, 64_000
"""The length of own.yaml, 64,000 images, is meant for a data set of 3,200."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The images of one cache."""

    annotated: AnnotatedImages
    """The images and regions, as read from the annotations."""
    found: FoundAnnotations
    """Their annotations."""
    file_names: Sequence[str] | None = None
    """The images of the part; all of them if None."""
    classes: Sequence[str] | None = None
    """The list of classes to give to the reader, if the annotations have none."""

    @property
    def num_images(self) -> int:
        """Number of images in the part."""
        return len(self.annotated.records if self.file_names is None else self.file_names)


def commands(output_dir: Path) -> list[str]:
    """Return the commands that use the written configurations."""
    config = {name: shlex.quote(str(output_dir / f"{name}.yaml")) for name in _CONFIGS}
    return [
        f"regionspot cache --config {config['cache_train']}",
        f"regionspot cache --config {config['cache_val']}",
        f"regionspot fit --config {config['train']}",
        f"regionspot evaluate --config {config['evaluate']}",
    ]


def write_files(
    output_dir: Path, parts: Mapping[str, Part], *, preset: str, folder: str
) -> list[Path]:
    """Write configurations and lists; nothing if one of the files exists and differs.

    Raises:
        ConfigError: A file with other content exists.
    """
    texts: dict[str, str] = {}
    for name, part in parts.items():
        if part.file_names is not None:
            texts[f"{name}_images.txt"] = "".join(f"{one}\n" for one in part.file_names)
        if part.classes is not None:
            texts["classes.txt"] = "".join(f"{one}\n" for one in part.classes)
    configs = {
        "cache_train": _cache_config(output_dir, "train", parts["train"], preset),
        "cache_val": _cache_config(output_dir, "val", parts["val"], preset),
        "train": _train_config(output_dir, parts, preset),
        "evaluate": _evaluate_config(output_dir, parts["val"], preset),
    }
    for name, config in configs.items():
        text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100)
        texts[f"{name}.yaml"] = _HEADER.format(folder=folder) + text
    for name, text in texts.items():
        path = output_dir / name
        if path.exists() and (not path.is_file() or path.read_bytes() != text.encode()):
            raise ConfigError(
                f"{path} exists and differs from what would be written. Nothing was written. Remove"
                " it, or give another --output_dir."
            )
    for name, text in texts.items():
        write_text_atomic(output_dir / name, text)
    return [output_dir / name for name in texts]


def _cache_config(output_dir: Path, name: str, part: Part, preset: str) -> dict[str, Any]:
    annotations: dict[str, Any] = {
        "format": part.found.format,
        "path": str(part.found.path),
        "images_dir": str(part.annotated.images_dir),
    }
    if part.found.split is not None:
        annotations["split"] = part.found.split
    if part.file_names is not None:
        annotations["image_list"] = str(output_dir / f"{name}_images.txt")
    if part.classes is not None:
        annotations["classes_path"] = str(output_dir / "classes.txt")
    config: dict[str, Any] = {
        "output_dir": str(output_dir / "cache" / name),
        "annotations": annotations,
        "models": {"preset": preset},
        "templates": ["ensemble81"],
    }
    if preset == "toy":
        config["unknown_words"] = "keep"
    return config


def _train_config(output_dir: Path, parts: Mapping[str, Part], preset: str) -> dict[str, Any]:
    """Return the recipe of own.yaml, or for the toy preset of the toy world, scaled to the data."""
    name = "toy/train_stage1.yaml" if preset == "toy" else "train/own.yaml"
    config = cast("dict[str, Any]", yaml.safe_load(shipped_text(f"configs/{name}")))
    config.pop("num_threads", None)
    val = parts["val"].found
    config["val_annotations"] = str(val.path) if val.format == "lvis" else None
    num_images = parts["train"].num_images
    batch_size = min(_BATCH_SIZE, num_images)
    # More passes over fewer images: 110 over 100, 20 over 3,200, 3 over 120,000.
    num_trained = _OWN_TRAINED * math.sqrt(num_images / _OWN_IMAGES)
    num_steps = max(10, round(num_trained / _BATCH_SIZE))
    every = max(1, num_steps // 10)
    config["max_images"] = num_steps * batch_size
    config["trainer"] |= {
        "default_root_dir": str(output_dir / "run"),
        "precision": "bf16-mixed" if torch.cuda.is_available() else "32-true",
        "val_check_interval": every,
        "enable_progress_bar": True,
        "callbacks": [
            _checkpoints("best", monitor="val/AP", mode="max"),
            _checkpoints("last", every_n_train_steps=every),
        ],
    }
    config["data"] |= {
        "train": [str(output_dir / "cache" / "train")],
        "val": str(output_dir / "cache" / "val"),
        "batch_size": batch_size,
    }
    config["model"]["schedule"] = {
        "shape": "cosine",
        "warmup_images": num_steps * batch_size // 20,
        "warmup_factor": 0.01,
        "final_factor": 0.0,
    }
    return config


def _checkpoints(name: str, **options: object) -> dict[str, Any]:
    return {
        "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
        "init_args": {"filename": name, **options, "enable_version_counter": False},
    }


def _evaluate_config(output_dir: Path, part: Part, preset: str) -> dict[str, Any]:
    config: dict[str, Any] = {
        "cache": str(output_dir / "cache" / "val"),
        "checkpoints": [f"fusion_head={output_dir / 'run'}"],
        "methods": ["clip_box_crop"],
        "models": {"preset": preset},
        "images_dir": str(part.annotated.images_dir),
        "output_dir": str(output_dir / "evaluation"),
    }
    if FORMATS[part.found.format].has_image_ids:
        config["annotations"] = str(part.found.path)
    return config
