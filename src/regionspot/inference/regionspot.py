"""RegionSpot: an image and prompts in, named regions out.

Shape letters: B images, R regions, S SAM width, T tokens, D CLIP width, E text width, C classes,
K the best classes of a region.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Self, overload

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from regionspot.backbones import (
    FrozenModels,
    GridProposer,
    LocatedRegions,
    SameTokens,
    locate_regions,
)
from regionspot.core.errors import ConfigError, VocabularyError
from regionspot.core.vocabulary import Vocabulary
from regionspot.inference.from_cache import class_probabilities, embed_regions
from regionspot.inference.inputs import ImageLike, as_count, is_one_image, load_image
from regionspot.inference.matching_models import exif_policy_of, load_matching_models
from regionspot.inference.prompts import PromptedPixels, mask_form_for, open_prompted
from regionspot.inference.regions import Regions
from regionspot.inference.text_banks import ChosenNames, TextBanks, as_vocabulary
from regionspot.model import TrainedHead, load_trained_head

_IMAGE_BATCH_SIZE = 4
_DEFAULT_GRID = GridProposer()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """What to return for every region of a call."""

    names: ChosenNames
    top_k: int
    with_masks: bool


class RegionSpot:
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
        self._trained_head = trained_head
        self._models = models
        self._exif_policy = exif_policy_of(trained_head.card)
        self._mask_form = mask_form_for(trained_head.card.prompts)
        self._banks = TextBanks(models, trained_head.folder)
        trained_head.head.to(models.encoder.device).eval()
        trained_head.classifier.to(models.encoder.device).eval()

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        device: str = "auto",
        *,
        sam_weights: str | None = None,
        clip_weights: str | None = None,
    ) -> Self:
        """Load a trained head and the frozen models that it was trained on.

        Args:
            path: A folder with ``head.safetensors`` and ``head.json``, the folder of a run, or a
                ``.ckpt`` or ``.safetensors`` file.
            device: Where everything runs: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1".
            sam_weights: Name or path of SAM's weights; None takes the released ones.
            clip_weights: Tag or path of CLIP's weights; None takes the usual ones.

        Raises:
            MissingFileError: There is no trained head at the path.
            WeightsError: A weights file does not fit.
            CacheMismatchError: SAM or CLIP are not those that the head was trained on.
            MissingExtraError: The extra ``extract`` is not installed.
        """
        trained_head = load_trained_head(path)
        models = load_matching_models(
            trained_head, device=device, sam_weights=sam_weights, clip_weights=clip_weights
        )
        return cls(trained_head, models)

    @property
    def vocabulary(self) -> Vocabulary:
        """The names of training, the default of `recognize`.

        Raises:
            VocabularyError: The head's card does not name any.
        """
        names = self._trained_head.card.vocabulary
        if not names:
            raise VocabularyError(
                "the head's card does not name the classes of its training: give the names to"
                " choose from, vocabulary=[...]."
            )
        return Vocabulary(names)

    def choose_names(
        self,
        vocabulary: Vocabulary | Iterable[str] | None = None,
        *,
        templates: str | None = None,
        same_tokens: SameTokens = "keep",
    ) -> ChosenNames:
        """Check names to choose from; arguments and errors as in `recognize`.

        Returns:
            The names, with their embeddings (``bank_CE``), which are computed on first use.
        """
        names = self.vocabulary if vocabulary is None else as_vocabulary(vocabulary)
        templates = templates or self._trained_head.card.templates
        if not templates:
            raise ConfigError(
                "the head's card does not name the templates of its training: give them, for"
                " example templates='ensemble81'."
            )
        return self._banks.choose(names, templates=templates, same_tokens=same_tokens)

    @overload  # a str, which is also an iterable of str, is one image
    def recognize(  # type: ignore[overload-overlap]
        self,
        image: ImageLike,
        *,
        boxes_xyxy: ArrayLike | Iterable[ArrayLike] | None = None,
        points: ArrayLike | Iterable[ArrayLike] | None = None,
        masks: ArrayLike | Iterable[ArrayLike] | None = None,
        vocabulary: Vocabulary | Iterable[str] | None = None,
        templates: str | None = None,
        same_tokens: SameTokens = "keep",
        top_k: int = 1,
        with_masks: bool = True,
    ) -> Regions: ...

    @overload
    def recognize(
        self,
        image: Iterable[ImageLike],
        *,
        boxes_xyxy: Iterable[ArrayLike] | None = None,
        points: Iterable[ArrayLike] | None = None,
        masks: Iterable[ArrayLike] | None = None,
        vocabulary: Vocabulary | Iterable[str] | None = None,
        templates: str | None = None,
        same_tokens: SameTokens = "keep",
        top_k: int = 1,
        with_masks: bool = True,
    ) -> list[Regions]: ...

    @torch.inference_mode()
    def recognize(  # noqa: PLR0913 - the public options
        self,
        image: ImageLike | Iterable[ImageLike],
        *,
        boxes_xyxy: ArrayLike | Iterable[ArrayLike] | None = None,
        points: ArrayLike | Iterable[ArrayLike] | None = None,
        masks: ArrayLike | Iterable[ArrayLike] | None = None,
        vocabulary: Vocabulary | Iterable[str] | None = None,
        templates: str | None = None,
        same_tokens: SameTokens = "keep",
        top_k: int = 1,
        with_masks: bool = True,
    ) -> Regions | list[Regions]:
        """Name the regions of one image, or of several with different numbers of regions.

        The regions of an image attend to each other, so adding one may change the names of others.

        Args:
            image: A path, the bytes of an image file, a PIL image, or uint8 pixels as an array
                (RGB, RGBA or grey, channels last) or tensor; or a list or generator of these, for
                which the prompts are lists of the same length.
            boxes_xyxy: Boxes, (R, 4), pixels of the original image. They are clipped to the image,
                as they are when a cache is made.
            points: One point per region, (R, 2) as (x, y), or K of them, (R, K, 2), pixels of the
                original image. A third column holds labels: 1 in the region, 0 not in it, -1
                padding.
            masks: Masks, (R, H, W) bool.
            vocabulary: The names to choose from; None takes those of training.
            templates: The template set for the names ("ensemble81", "ensemble80", "single",
                "none"); None takes that of training.
            same_tokens: How to treat names to which CLIP's tokenizer gives the same tokens, such as
                "Dog" and "dog": "keep" them, with a warning, to share their probability; "merge"
                them under the first; or "refuse" them.
            top_k: Number of names per region, best first; at most the size of the vocabulary.
            with_masks: Whether to return SAM's masks of the regions. Its mask decoder then runs,
                and each region takes 256 KiB; masks are upsampled on access.

        Returns:
            The named regions, in the order of the prompts; a list for a list. Empty prompts give no
            regions.

        Raises:
            ConfigError: Not exactly one kind of prompt is given, ``top_k`` is not positive, or
                ``templates`` or ``same_tokens`` is unknown.
            ShapeError: Image or prompts have a wrong shape or type, or lie outside the image; or
                boxes look relative to it, or end before they start.
            VocabularyError: The vocabulary is empty, a name is empty or repeated, or a tiny CLIP
                does not know one of its words; or names with the same tokens are refused.
            MissingFileError: There is no image at the path.
            ImageError: The file is not an image.
        """
        task = self._task(vocabulary, templates, same_tokens, top_k=top_k, with_masks=with_masks)
        several = isinstance(image, Iterable) and not is_one_image(image)
        prompted = open_prompted(
            image,
            {"boxes_xyxy": boxes_xyxy, "points": points, "masks": masks},
            several=several,
            exif_policy=self._exif_policy,
            mask_form=self._mask_form,
        )
        batches = [
            prompted[start : start + _IMAGE_BATCH_SIZE]
            for start in range(0, len(prompted), _IMAGE_BATCH_SIZE)
        ]
        named = self._models.map_batches(
            lambda batch: self._recognize_batch(batch, task), batches, num_batches=len(batches)
        )
        regions = list(chain.from_iterable(named))
        return regions if several else regions[0]

    @torch.inference_mode()
    def recognize_everything(
        self,
        image: ImageLike,
        *,
        grid: GridProposer = _DEFAULT_GRID,
        vocabulary: Vocabulary | Iterable[str] | None = None,
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
            templates: As in `recognize`.
            same_tokens: As in `recognize`.
            top_k: As in `recognize`.
            with_masks: Whether to return SAM's masks of the boxes.

        Returns:
            The named regions, highest score first, with their ``box_scores``, which are multiplied
            into the scores. No regions if none passes the thresholds.

        Raises:
            As `recognize`, except for errors about prompts.
        """
        task = self._task(vocabulary, templates, same_tokens, top_k=top_k, with_masks=with_masks)
        pixels = load_image(image, exif_policy=self._exif_policy)
        (regions,) = self._recognize_batch([PromptedPixels(pixels=pixels, prompts=grid)], task)
        return regions[np.argsort(-regions.scores, kind="stable")]

    @torch.inference_mode()
    def _recognize_batch(self, images: Sequence[PromptedPixels], task: _Task) -> list[Regions]:
        localizer, encoder = self._models.localizer, self._models.encoder
        frames_BCHW = torch.stack([localizer.preprocess(image.pixels) for image in images])
        embedded_BSHW = localizer.embed(frames_BCHW)
        squares_BCHW = torch.stack([encoder.preprocess(image.pixels) for image in images])
        features_BTD = encoder.features(squares_BCHW)
        located = [
            locate_regions(
                localizer,
                embedded_BSHW[index : index + 1],
                image.prompts,
                image.size_hw,
                with_masks=task.with_masks,
            )
            for index, image in enumerate(images)
        ]
        embeddings = embed_regions(
            self._trained_head,
            features_BTD,
            [regions.tokens for regions in located],
            [regions.boxes_xyxy for regions in located],
            [image.size_hw for image in images],
        )
        return [
            self._named(image, where, z_RE, task)
            for image, where, z_RE in zip(images, located, embeddings, strict=True)
        ]

    def _named(
        self, image: PromptedPixels, located: LocatedRegions, z_RE: Tensor, task: _Task
    ) -> Regions:
        logits_RC = self._trained_head.classifier(z_RE, task.names.bank_CE)
        scores_RC = class_probabilities(logits_RC)
        best_RK = np.argsort(-scores_RC, axis=1, kind="stable")[:, : task.top_k]
        top_scores_RK = np.take_along_axis(scores_RC, best_RK, axis=1)
        if located.box_scores is not None:
            top_scores_RK *= located.box_scores[:, None]
        return Regions(
            image=image.pixels,
            vocabulary=task.names.vocabulary,
            boxes_xyxy=located.boxes_xyxy,
            top_class_ids=best_RK.astype(np.int64),
            top_scores=top_scores_RK,
            embeddings=z_RE.cpu().numpy(),
            kept_masks=located.masks,
            box_scores=located.box_scores,
        )

    def _task(
        self,
        vocabulary: Vocabulary | Iterable[str] | None,
        templates: str | None,
        same_tokens: SameTokens,
        *,
        top_k: int,
        with_masks: bool,
    ) -> _Task:
        """Check the options; names are embedded later, once images and prompts are checked."""
        count = as_count(top_k, name="top_k")
        chosen = self.choose_names(vocabulary, templates=templates, same_tokens=same_tokens)
        return _Task(names=chosen, top_k=min(count, len(chosen.vocabulary)), with_masks=with_masks)
