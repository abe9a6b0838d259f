"""RegionSpot: an image and prompts in, named regions out.

Shape letters: B images, R regions, S SAM width, T tokens, D CLIP width, E text width, C classes,
K the best classes of a region.
"""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import overload

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from regionspot.backbones import FrozenModels, GridProposer, LocatedRegions, SameTokens
from regionspot.core.geometry import FloatArray
from regionspot.core.vocabulary import Vocabulary
from regionspot.inference.calibration import Calibration
from regionspot.inference.embedding import RegionEmbedder
from regionspot.inference.encoded_image import EncodedImage
from regionspot.inference.inputs import ImageLike, as_count, is_one_image
from regionspot.inference.naming import Naming
from regionspot.inference.on_caches import OnCaches
from regionspot.inference.prompted_images import in_batches
from regionspot.inference.prompts import BoxFormat, PromptedPixels
from regionspot.inference.prototypes import Examples, Prototypes
from regionspot.inference.regions import Regions
from regionspot.model import TrainedHead

_DEFAULT_GRID = GridProposer()


class RegionSpot(OnCaches):
    """Recognises regions of images by names from an open vocabulary.

    Create one with `from_pretrained`. Names are embedded once: the embeddings of the names of
    training come with the head; others are kept in memory and, for later processes, in
    ``~/.cache/regionspot/text_banks`` (see `StoredBanks`).

    Args:
        trained_head: A fusion head with its classifier and card.
        models: The frozen SAM and CLIP that the head was trained on; unlike `from_pretrained`, this
            constructor does not check them.
    """

    def __init__(self, trained_head: TrainedHead, models: FrozenModels) -> None:
        super().__init__(trained_head, models)
        self._embedder = RegionEmbedder(trained_head, models)

    @torch.inference_mode()
    def encode_image(self, image: ImageLike) -> EncodedImage:
        """Run SAM's and CLIP's image encoders, for several questions about one image.

        `recognize` and `recognize_everything` take the result in place of the image, and answer as
        they do for the image. It can be saved, and loaded by a later process.

        Args:
            image: One image, as in `recognize`.

        Raises:
            MissingFileError: There is no image at the path or URL.
            StorageError: The image cannot be downloaded.
            ImageError: The file is not an image.
            ShapeError: The pixels have a wrong shape or type.
        """
        return self._embedder.encode(image)

    @overload  # a str, which is also an iterable of str, is one image
    def recognize(  # type: ignore[overload-overlap]
        self,
        image: ImageLike,
        boxes: ArrayLike | Iterable[ArrayLike] | None = None,
        *,
        box_format: BoxFormat = "xyxy",
        points: ArrayLike | Iterable[ArrayLike] | None = None,
        masks: ArrayLike | Iterable[ArrayLike] | None = None,
        vocabulary: Vocabulary | Iterable[str] | None = None,
        examples: Examples | Prototypes | None = None,
        unknown: str | None = None,
        calibration: Calibration | None = None,
        templates: str | None = None,
        same_tokens: SameTokens = "keep",
        top_k: int = 1,
        with_masks: bool = True,
        batch_size: int = 4,
    ) -> Regions: ...

    @overload
    def recognize(
        self,
        image: Iterable[ImageLike],
        boxes: Iterable[ArrayLike] | None = None,
        *,
        box_format: BoxFormat = "xyxy",
        points: Iterable[ArrayLike] | None = None,
        masks: Iterable[ArrayLike] | None = None,
        vocabulary: Vocabulary | Iterable[str] | None = None,
        examples: Examples | Prototypes | None = None,
        unknown: str | None = None,
        calibration: Calibration | None = None,
        templates: str | None = None,
        same_tokens: SameTokens = "keep",
        top_k: int = 1,
        with_masks: bool = True,
        batch_size: int = 4,
    ) -> list[Regions]: ...

    @torch.inference_mode()
    def recognize(  # noqa: PLR0913 - the public options
        self,
        image: ImageLike | Iterable[ImageLike],
        boxes: ArrayLike | Iterable[ArrayLike] | None = None,
        *,
        box_format: BoxFormat = "xyxy",
        points: ArrayLike | Iterable[ArrayLike] | None = None,
        masks: ArrayLike | Iterable[ArrayLike] | None = None,
        vocabulary: Vocabulary | Iterable[str] | None = None,
        examples: Examples | Prototypes | None = None,
        unknown: str | None = None,
        calibration: Calibration | None = None,
        templates: str | None = None,
        same_tokens: SameTokens = "keep",
        top_k: int = 1,
        with_masks: bool = True,
        batch_size: int = 4,
    ) -> Regions | list[Regions]:
        """Name the regions of one image, or of several with different numbers of regions.

        The regions of an image attend to each other, so adding one may change the names of others.

        Args:
            image: A path or http(s) URL, the bytes of an image file, a PIL image, uint8 pixels as
                an array (RGB, RGBA or grey, channels last) or tensor, or the result of
                `encode_image`; or a list or generator of these, for which the prompts are lists of
                the same length.
            boxes: Boxes, (R, 4). They are clipped to the image, as they are when a cache is made.
            box_format: Meaning of the four numbers: "xyxy" are corners, "xywh" corner and size,
                "cxcywh" centre and size, all in pixels of the original image; "normalized" are
                corners as fractions of its width and height.
            points: One point per region, (R, 2) as (x, y), or K of them, (R, K, 2), pixels of the
                original image. A third column holds labels: 1 in the region, 0 not in it, -1
                padding.
            masks: Masks, (R, H, W) bool.
            vocabulary: The names to choose from; None takes those of training, or only the examples
                if there are any.
            examples: Names given by regions that show them: a list of (image, box) for each name,
                or the result of `prototypes`. Beside a vocabulary they need a ``calibration``.
            unknown: Name for regions that no name fits well enough, such as "background"; None
                names all regions.
            calibration: The result of `calibrate`, which says when a name fits well enough; None
                takes a confidence of 0.5.
            templates: The template set for the names ("ensemble81", "ensemble80", "single",
                "none"); None takes that of training.
            same_tokens: How to treat names to which CLIP's tokenizer gives the same tokens, such as
                "Dog" and "dog": "keep" them, with a warning, to share their probability; "merge"
                them under the first; or "refuse" them.
            top_k: Number of names per region, best first; at most the size of the vocabulary.
            with_masks: Whether to return SAM's masks of the regions. Its mask decoder then runs,
                and each region takes 256 KiB; masks are upsampled on access.
            batch_size: Number of images that the models process at once, on a CPU in each of its
                threads. It changes speed and memory, and scores by rounding errors only.

        Returns:
            The named regions, in the order of the prompts; a list for a list. Empty prompts give no
            regions.

        Raises:
            ConfigError: Not exactly one kind of prompt is given, ``top_k`` or ``batch_size`` is not
                positive, or ``box_format``, ``templates`` or ``same_tokens`` is unknown.
            ShapeError: Image or prompts have a wrong shape or type, or lie outside the image; or
                boxes look relative to it, or end before they start.
            VocabularyError: The vocabulary is empty, a name is empty or repeated, or a tiny CLIP
                does not know one of its words; or names with the same tokens are refused.
            MissingFileError: There is no image at the path or URL.
            StorageError: An image cannot be downloaded.
            ImageError: The file is not an image.
            CacheMismatchError: An encoded image was encoded by other models.
        """
        naming = self._naming(
            vocabulary=vocabulary,
            templates=templates,
            same_tokens=same_tokens,
            prototypes=self._as_prototypes(examples, box_format),
            unknown=unknown,
            calibration=calibration,
            top_k=top_k,
        )
        images_per_batch = as_count(batch_size, name="batch_size")
        several = isinstance(image, Iterable) and not is_one_image(image)
        prompted = self._embedder.open(
            image,
            {"boxes": boxes, "points": points, "masks": masks},
            several=several,
            box_format=box_format,
        )
        batches = list(in_batches(prompted, images_per_batch))
        named = self._models.map_batches(
            lambda batch: self._recognize_batch(batch, naming, with_masks=with_masks),
            batches,
            num_batches=len(batches),
        )
        regions = list(chain.from_iterable(named))
        return regions if several else regions[0]

    @torch.inference_mode()
    def recognize_everything(  # noqa: PLR0913 - the public options
        self,
        image: ImageLike,
        *,
        grid: GridProposer = _DEFAULT_GRID,
        vocabulary: Vocabulary | Iterable[str] | None = None,
        examples: Examples | Prototypes | None = None,
        unknown: str | None = None,
        calibration: Calibration | None = None,
        templates: str | None = None,
        same_tokens: SameTokens = "keep",
        top_k: int = 1,
        with_masks: bool = True,
    ) -> Regions:
        """Let SAM propose the regions of an image, and name them.

        SAM is prompted with a grid of points, as in ``SamAutomaticMaskGenerator``. The regions that
        pass the thresholds are named as if their boxes had been passed to `recognize`; the image is
        embedded once for both.

        Args:
            image: One image, as in `recognize`.
            grid: The density of the grid, and the thresholds for regions.
            vocabulary: As in `recognize`.
            examples: As in `recognize`; their boxes are corners in pixels.
            unknown: As in `recognize`.
            calibration: As in `recognize`.
            templates: As in `recognize`.
            same_tokens: As in `recognize`.
            top_k: As in `recognize`.
            with_masks: Whether to return SAM's masks of the boxes.

        Returns:
            The named regions, highest score first, with their ``box_scores``, which are multiplied
            into the scores. No regions if none passes the thresholds.

        Raises:
            RegionSpotError: As `recognize` does, except for prompts.
        """
        naming = self._naming(
            vocabulary=vocabulary,
            templates=templates,
            same_tokens=same_tokens,
            prototypes=self._as_prototypes(examples, "xyxy"),
            unknown=unknown,
            calibration=calibration,
            top_k=top_k,
        )
        encoded = self._embedder.encode(image)
        prompted = PromptedPixels(pixels=encoded.pixels, prompts=grid, encoded=encoded)
        (regions,) = self._recognize_batch([prompted], naming, with_masks=with_masks)
        return regions[np.argsort(-regions.scores, kind="stable")]

    @torch.inference_mode()
    def attention(
        self,
        image: ImageLike,
        boxes: ArrayLike | None = None,
        *,
        box_format: BoxFormat = "xyxy",
        points: ArrayLike | None = None,
        masks: ArrayLike | None = None,
    ) -> FloatArray:
        """Return what each region of one image attends to in the head's last block.

        Args and errors are those of `recognize`.

        Returns:
            Mean over the attention heads, (R, T) float32; rows sum to 1. Token 0 is the first token
            of the feature map, the others are its patches, row by row.
        """
        (prompted,) = self._embedder.open(
            image,
            {"boxes": boxes, "points": points, "masks": masks},
            several=False,
            box_format=box_format,
        )
        return self._embedder.attention(prompted)

    @torch.inference_mode()
    def prototypes(self, examples: Examples, *, box_format: BoxFormat = "xyxy") -> Prototypes:
        """Embed regions that are examples of names, to name others by them.

        `recognize` takes the result, or the examples themselves, which it then embeds every time.

        Args:
            examples: For each name a list of (image, box). A box, (4,), is embedded on its own; the
                boxes of (image, boxes), (R, 4), are regions of one image and attend to each other,
                as in `recognize`.
            box_format: Meaning of the boxes' numbers, as in `recognize`.

        Raises:
            VocabularyError: A name is empty or has no examples.
            ConfigError: The examples are not lists of pairs by name.
            ShapeError: A box has a wrong shape or lies outside its image.
        """
        return self._embedder.average(examples, box_format=box_format)

    @torch.inference_mode()
    def _recognize_batch(
        self, images: Sequence[PromptedPixels], naming: Naming, *, with_masks: bool
    ) -> list[Regions]:
        return [
            self._named(image, where, z_RE, naming)
            for image, where, z_RE in self._embedder.embed(images, with_masks=with_masks)
        ]

    def _named(
        self, image: PromptedPixels, located: LocatedRegions, z_RE: Tensor, naming: Naming
    ) -> Regions:
        best = naming.choose(z_RE, self._trained_head.classifier)
        box_scores = located.box_scores
        return Regions(
            image=image.pixels,
            vocabulary=naming.vocabulary,
            boxes_xyxy=located.boxes_xyxy,
            top_class_ids=best.class_ids,
            top_scores=best.scores if box_scores is None else best.scores * box_scores[:, None],
            top_confidences=best.confidences,
            embeddings=z_RE.cpu().numpy(),
            kept_masks=located.masks,
            box_scores=box_scores,
            is_unknown=None if naming.unknown is None else best.is_unknown,
        )

    def _naming(
        self,
        *,
        vocabulary: Vocabulary | Iterable[str] | None,
        templates: str | None,
        same_tokens: SameTokens,
        prototypes: Prototypes | None,
        unknown: str | None,
        calibration: Calibration | None,
        top_k: int,
    ) -> Naming:
        """Check the options; words are embedded later, once images and prompts are checked."""
        count = as_count(top_k, name="top_k")
        words = None
        if vocabulary is not None or prototypes is None:
            words = self.choose_names(vocabulary, templates=templates, same_tokens=same_tokens)
        return Naming(
            words=words,
            prototypes=prototypes,
            unknown=unknown,
            calibration=calibration,
            top_k=count,
        )

    def _as_prototypes(
        self, examples: Examples | Prototypes | None, box_format: BoxFormat
    ) -> Prototypes | None:
        if examples is None or isinstance(examples, Prototypes):
            return examples
        return self.prototypes(examples, box_format=box_format)
