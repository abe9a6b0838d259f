"""Which images and regions a configuration means: the annotated ones, or proposals."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from regionspot.annotations import (
    AnnotatedImages,
    ExaminedBoxes,
    implausible_error,
    overshooting,
    read_annotations,
    read_category_tree,
    read_proposals,
    with_proposals,
    without_regions,
)
from regionspot.backbones.image_files import read_size_hw
from regionspot.cache import write_category_tree
from regionspot.core.errors import MissingFileError
from regionspot.extraction.config import CacheConfig
from regionspot.storage import is_url, local_input

_NUM_LOOKED_AT = 64


def read_regions(config: CacheConfig) -> AnnotatedImages:
    """Read a configuration's annotations and, if it has any, the proposals in their place.

    Raises:
        MissingFileError: A file or the folder of images is missing.
        StorageError: The server of a URL refuses, or does not answer.
        AnnotationError: A file is in another format, or nothing in it can be used.
    """
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
    """Look at a few images where the annotations do not say how large images are."""
    images, regions = annotated.records.images, annotated.records.regions
    if images.sizes_hw is not None or regions.box_unit != "pixel" or annotated.images_dir is None:
        return None
    rows = np.flatnonzero(np.diff(regions.starts))
    sizes_hw, chosen = [], []
    for row in rows[:: max(1, -(-len(rows) // _NUM_LOOKED_AT))].tolist():
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
    """Tell where the proposals come from, in another text for other ones; None without any."""
    if config.proposals is None:
        return None
    if config.proposals.grid is not None:
        options = ", ".join(f"{k} {v}" for k, v in asdict(config.proposals.grid).items())
        return f"found on a grid by SAM: {options}"
    name = local_input(str(config.proposals.path)).name
    return f"{name}, sha256 {annotated.proposals_sha256}"


def store_category_tree(output_dir: Path, tree_path: str, annotated: AnnotatedImages) -> None:
    """Keep a category tree of V3Det in the cache, by label.

    Raises:
        MissingFileError: There is no such file.
        AnnotationError: It is no category tree.
    """
    kinds_of = read_category_tree(local_input(tree_path))
    label_of = {number: label for label, number in enumerate(annotated.category_ids)}
    write_category_tree(
        output_dir,
        [
            sorted(label_of[kind] for kind in kinds_of.get(number, ()) if kind in label_of)
            for number in annotated.category_ids
        ],
    )
