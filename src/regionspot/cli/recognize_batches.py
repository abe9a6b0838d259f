"""Opens images and names their regions in batches, for ``regionspot recognize``."""

from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
from jsonargparse import Namespace
from numpy.typing import NDArray

from regionspot.backbones import BoxPrompts, check_templates
from regionspot.backbones.decode_images import MAX_PIXELS, ImageError, raise_pillows_limit
from regionspot.cli.recognize_inputs import ImageJob
from regionspot.cli.values import parse_vocabulary
from regionspot.core.errors import ConfigError, ShapeError
from regionspot.inference import Regions, RegionSpot, load_image
from regionspot.inference.inputs import as_count
from regionspot.inference.matching_models import exif_policy_of, load_matching_models
from regionspot.inference.prompted_images import in_batches
from regionspot.inference.prompts import read_prompts
from regionspot.model import load_trained_head


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OpenedImage:
    """An image with its pixels."""

    job: ImageJob
    """The image; its boxes are clipped to it."""
    pixels: NDArray[np.uint8]
    """RGB, (H, W, 3)."""


class BatchNamer:
    """Names the regions of images; SAM and CLIP are loaded for the first ones, which takes long.

    Args:
        options: The options of the command.
        with_masks: Whether the regions get masks.

    Raises:
        RegionSpotError: There is no head, or an option is wrong.
    """

    def __init__(self, options: Namespace, *, with_masks: bool) -> None:
        self.vocabulary = (
            None if options.vocabulary is None else parse_vocabulary(options.vocabulary)
        )
        as_count(options.top_k, name="--top_k")
        self._batch_size = as_count(options.batch_size, name="--batch_size")
        if options.templates is not None:
            check_templates(options.templates)
        if options.max_image_pixels < MAX_PIXELS:
            raise ConfigError(
                f"--max_image_pixels is {options.max_image_pixels:,}; wanted at least the default,"
                f" {MAX_PIXELS:,}."
            )
        raise_pillows_limit(options.max_image_pixels)
        self.trained_head = load_trained_head(options.model)
        self._options = options
        self._common: dict[str, Any] = {
            "vocabulary": self.vocabulary,
            "templates": options.templates,
            "same_tokens": options.same_tokens,
            "top_k": options.top_k,
            "with_masks": with_masks,
        }

    @cached_property
    def _model(self) -> RegionSpot:
        models = load_matching_models(
            self.trained_head,
            device=self._options.device,
            sam_weights=self._options.sam_weights,
            clip_weights=self._options.clip_weights,
        )
        return RegionSpot(self.trained_head, models)

    def open(self, job: ImageJob) -> OpenedImage:
        """Decode an image, and check its boxes or points.

        Raises:
            ImageError: The file is not an image.
            ShapeError: A box or point lies outside the image, or has no area.
        """
        pixels = load_image(job.path, exif_policy=exif_policy_of(self.trained_head.card))
        if job.boxes_xyxy is None and job.points_xy is None:
            return OpenedImage(job=job, pixels=pixels)
        size_hw = (pixels.shape[0], pixels.shape[1])
        prompts = read_prompts(boxes=job.boxes_xyxy, points=job.points_xy, size_hw=size_hw)
        if isinstance(prompts, BoxPrompts):
            # Clipped, so that clipping is logged once.
            job = replace(job, boxes_xyxy=prompts.boxes_xyxy)
        return OpenedImage(job=job, pixels=pixels)

    def name_one(self, job: ImageJob) -> Regions:
        """Name the regions of one image; raises as `open` and `RegionSpot.recognize` do."""
        (regions,) = self._regions([self.open(job)])
        return regions

    def name_all(self, jobs: Iterable[ImageJob]) -> Generator[tuple[ImageJob, Regions | Exception]]:
        """Yield every image with its regions, or with the error if it cannot be used.

        The next batch is decoded while the models run.
        """
        batches = in_batches(jobs, self._batch_size)
        coming: deque[Future[list[tuple[ImageJob, OpenedImage | Exception]]]] = deque()
        with ThreadPoolExecutor(1, thread_name_prefix="images") as pool:

            def open_next() -> None:
                coming.extend(pool.submit(self._try_open, batch) for batch in islice(batches, 1))

            open_next()
            while coming:
                batch = coming.popleft().result()
                open_next()
                opened = [one for _, one in batch if isinstance(one, OpenedImage)]
                named = iter(self._try_name(opened))
                for job, one in batch:
                    yield job, next(named) if isinstance(one, OpenedImage) else one

    def _try_open(self, jobs: Sequence[ImageJob]) -> list[tuple[ImageJob, OpenedImage | Exception]]:
        opened: list[tuple[ImageJob, OpenedImage | Exception]] = []
        for job in jobs:
            try:
                opened.append((job, self.open(job)))
            except (ImageError, ShapeError, OSError) as error:
                opened.append((job, error))
        return opened

    def _try_name(self, opened: Sequence[OpenedImage]) -> list[Regions | Exception]:
        try:
            return list(self._regions(opened))
        except ShapeError as error:  # an image too elongated for the models
            if len(opened) == 1:
                return [error]
            return [named for one in opened for named in self._try_name([one])]

    def _regions(self, opened: Sequence[OpenedImage]) -> list[Regions]:
        if not opened:
            return []
        images = [one.pixels for one in opened]
        boxes = [one.job.boxes_xyxy for one in opened if one.job.boxes_xyxy is not None]
        points = [one.job.points_xy for one in opened if one.job.points_xy is not None]
        if not boxes and not points:
            grid = self._options.grid
            return [
                self._model.recognize_everything(image, grid=grid, **self._common)
                for image in images
            ]
        return self._model.recognize(
            images,
            boxes=boxes or None,
            points=points or None,
            batch_size=self._batch_size,
            **self._common,
        )
