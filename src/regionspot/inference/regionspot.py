"""RegionSpot: pixels and prompts in, named regions out.

`load_matching_models` builds the frozen models that a head was trained on, `RegionSpot` runs them.

Shape letters as in the whole project: B images, R regions, S SAM width, T tokens, D CLIP width,
E text width, C classes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Self, cast, overload

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from regionspot.backbones import (
    FrozenModels,
    GridProposer,
    LocatedRegions,
    ModelsConfig,
    SameTokens,
    TokenSite,
    load_frozen_models,
    locate_regions,
)
from regionspot.backbones.presets import ExifPolicy, as_exif_policy
from regionspot.cache import Fingerprint
from regionspot.cache.fingerprint import check_same_models
from regionspot.core.errors import ConfigError, VocabularyError, WeightsError
from regionspot.core.vocabulary import Vocabulary
from regionspot.inference.from_cache import class_probabilities, embed_regions
from regionspot.inference.inputs import ImageLike, as_count, is_one_image, load_image
from regionspot.inference.prompts import PromptedPixels, mask_form_for, open_prompted
from regionspot.inference.regions import Regions
from regionspot.inference.stored_banks import StoredBanks
from regionspot.inference.vocabularies import ChosenNames, TextBanks, as_vocabulary
from regionspot.model import HeadCard, TrainedHead, load_trained_head


def exif_policy_of(card: HeadCard) -> ExifPolicy:
    """Return what a head's training did about the EXIF orientation of images."""
    return as_exif_policy(str(card.fingerprint.get("exif_policy", "ignore")))


def load_matching_models(
    trained_head: TrainedHead,
    *,
    device: str,
    sam_weights: str | None,
    clip_weights: str | None,
) -> FrozenModels:
    """Build the SAM and CLIP that a head's card names, and check that they are the very same.

    Args:
        trained_head: The head.
        device: Where the frozen models run; "auto" takes a GPU if there is one.
        sam_weights: Name or path of SAM's weights; None takes those released for its architecture.
        clip_weights: Tag or path of CLIP's weights; None takes the usual ones of the architecture.

    Raises:
        WeightsError: The card does not say which models, or weights do not fit.
        CacheMismatchError: The weights or the preprocessing are others than in training.
        MissingExtraError: SAM's or CLIP's package is not installed.
    """
    card = trained_head.card
    if not card.fingerprint:
        raise WeightsError(
            "the head's card does not say which SAM and CLIP it was trained on. Choose them"
            " yourself: RegionSpot(trained_head, load_frozen_models(ModelsConfig(preset=...),"
            " device=...))."
        )
    wanted = Fingerprint.from_dict(dict(card.fingerprint))
    config = ModelsConfig(
        sam=wanted.sam_model,
        sam_weights=sam_weights,
        clip=wanted.clip_model,
        clip_weights=clip_weights,
        token_site=cast("TokenSite", wanted.token_site),
    )
    models = load_frozen_models(config, device=device)
    check_same_models(
        card.fingerprint,
        models.fingerprint(exif_policy=wanted.exif_policy),
        where="the SAM or CLIP loaded (choose with sam_weights= and clip_weights=)",
    )
    return models


_IMAGE_BATCH_SIZE = 4
_DEFAULT_GRID = GridProposer()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """What is asked about every region of a call."""

    names: ChosenNames
    top_k: int
    with_masks: bool


class RegionSpot:
    """Recognise regions of images by names from an open vocabulary.

    Build one with `from_pretrained`. Names are embedded once: the embeddings of the training's
    names come with the head, those of others are kept in memory and, for later processes, in
    ``~/.cache/regionspot/text_banks`` (see `StoredBanks`).

    Args:
        trained_head: A fusion head with its classifier and card.
        models: The frozen SAM and CLIP that the head was trained on; `from_pretrained` checks that
            they are, this constructor trusts the caller.
    """

    def __init__(self, trained_head: TrainedHead, models: FrozenModels) -> None:
        self._trained_head = trained_head
        self._models = models
        self._device = models.encoder.device
        self._exif_policy = exif_policy_of(trained_head.card)
        self._mask_form = mask_form_for(trained_head.card.prompts)
        self._banks = TextBanks(models, StoredBanks(models.fingerprint(), trained_head.folder))
        trained_head.head.to(self._device).eval()
        trained_head.classifier.to(self._device).eval()

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
            sam_weights: Name or path of SAM's weights, where they are not the released ones.
            clip_weights: Tag or path of CLIP's weights, where they are not the usual ones.

        Raises:
            MissingFileError: There is no trained head at the path.
            WeightsError: A weights file does not fit.
            CacheMismatchError: SAM or CLIP are not the ones that the head was trained on.
            MissingExtraError: The extra ``extract`` is not installed.
        """
        trained_head = load_trained_head(path)
        models = load_matching_models(
            trained_head, device=device, sam_weights=sam_weights, clip_weights=clip_weights
        )
        return cls(trained_head, models)

    @property
    def vocabulary(self) -> Vocabulary:
        """The names that the head was trained with, which is what `recognize` uses by default.

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

    @overload  # a str is a sequence of str, too: the first overload is for it
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
    def recognize(  # noqa: PLR0913 - what is asked, of which regions, and how
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

        The regions of an image are looked at together: they attend to each other, so adding a
        region may change what its neighbours are called.

        Args:
            image: A path, the bytes of an image file, a PIL image, or uint8 pixels as an array
                (RGB, RGBA or grey, channels last) or tensor; or a list or generator of these, and
                then the prompts are lists of the same length.
            boxes_xyxy: Boxes, (R, 4), pixels of the original image. What reaches over its edge is
                clipped, as it is when a cache is made.
            points: One point a region, (R, 2) as (x, y), or K of them, (R, K, 2), pixels of the
                original image. A third column holds labels: 1 in the region, 0 not in it, -1
                padding.
            masks: Masks, (R, H, W) bool.
            vocabulary: The names to choose from; None takes the ones the head was trained with.
            templates: Sentences that the names are put into ("ensemble81", "ensemble80", "single",
                "none"); None takes those of the training.
            same_tokens: What is done about names that CLIP's tokenizer makes one of, such as "Dog"
                and "dog": "keep" them, with a warning, to share their probability; "merge" them
                under the first; or "refuse" them.
            top_k: How many names to return a region, best first; at most the vocabulary has.
            with_masks: Whether SAM's masks can be had of the regions. Its mask decoder then runs,
                and 256 KiB a region are kept; a mask of the image's size is made when asked for.

        Returns:
            The named regions, in the order of the prompts; a list for a list. No prompts give no
            regions.

        Raises:
            ConfigError: Not exactly one kind of prompt is given, ``top_k`` is not positive, or the
                templates are unknown.
            ShapeError: Image or prompts have a wrong shape or type, or lie outside the image; or
                boxes look relative to it, or end before they start.
            VocabularyError: The vocabulary is empty, or holds an empty or repeated name, or one
                with a word that a tiny CLIP does not know; or names with the same tokens are
                refused.
            MissingFileError: There is no image at the path.
            ImageError: The file is not an image.
        """
        question = self._question(
            vocabulary, templates, same_tokens, top_k=top_k, with_masks=with_masks
        )
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
            lambda batch: self._recognize_batch(batch, question), batches, num_batches=len(batches)
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

        SAM is prompted with a grid of points, as in ``SamAutomaticMaskGenerator``, and the regions
        that pass the thresholds are named as if their boxes had been given to `recognize`. The
        image is embedded once for both.

        Args:
            image: As in `recognize`, but one.
            grid: How dense the grid is, and the thresholds that regions must pass.
            vocabulary: As in `recognize`, like the arguments below.
            templates: Sentences that the names are put into.
            same_tokens: What is done about names that CLIP cannot tell apart.
            top_k: How many names to return a region.
            with_masks: Whether SAM's masks of the boxes can be had.

        Returns:
            The named regions with their ``box_scores``, which are multiplied into the scores; the
            highest score comes first. No regions if none passes the thresholds.

        Raises:
            As `recognize`, but for errors about prompts.
        """
        question = self._question(
            vocabulary, templates, same_tokens, top_k=top_k, with_masks=with_masks
        )
        pixels = load_image(image, exif_policy=self._exif_policy)
        (regions,) = self._recognize_batch([PromptedPixels(pixels=pixels, prompts=grid)], question)
        return regions[np.argsort(-regions.scores, kind="stable")]

    @torch.inference_mode()
    def _recognize_batch(
        self, images: Sequence[PromptedPixels], question: _Question
    ) -> list[Regions]:
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
                with_masks=question.with_masks,
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
            self._named(image, where, z_RE, question)
            for image, where, z_RE in zip(images, located, embeddings, strict=True)
        ]

    def _named(
        self, image: PromptedPixels, located: LocatedRegions, z_RE: Tensor, question: _Question
    ) -> Regions:
        logits_RC = self._trained_head.classifier(z_RE, question.names.bank_CE)
        scores_RC = class_probabilities(logits_RC)
        best_RK = np.argsort(-scores_RC, axis=1, kind="stable")[:, : question.top_k]
        top_scores_RK = np.take_along_axis(scores_RC, best_RK, axis=1)
        if located.box_scores is not None:
            top_scores_RK *= located.box_scores[:, None]
        return Regions(
            image=image.pixels,
            vocabulary=question.names.vocabulary,
            boxes_xyxy=located.boxes_xyxy,
            top_class_ids=best_RK.astype(np.int64),
            top_scores=top_scores_RK,
            embeddings=z_RE.cpu().numpy(),
            kept_masks=located.masks,
            box_scores=located.box_scores,
        )

    def _question(
        self,
        vocabulary: Vocabulary | Iterable[str] | None,
        templates: str | None,
        same_tokens: SameTokens,
        *,
        top_k: int,
        with_masks: bool,
    ) -> _Question:
        """Check what is asked, at little cost: names are embedded for the first regions."""
        names = self.vocabulary if vocabulary is None else as_vocabulary(vocabulary)
        count = as_count(top_k, name="top_k")
        chosen = self._banks.choose(
            names, templates=templates or self._templates(), same_tokens=same_tokens
        )
        return _Question(
            names=chosen,
            top_k=min(count, len(chosen.vocabulary)),
            with_masks=with_masks,
        )

    def _templates(self) -> str:
        templates = self._trained_head.card.templates
        if not templates:
            raise ConfigError(
                "the head's card does not name the templates of its training: give them, for"
                " instance templates='ensemble81'."
            )
        return templates
