"""From pixels and prompts to region embeddings: SAM, CLIP and the head.

Shape letters: B images, R regions, T tokens of the feature map, E text width.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from regionspot.backbones import FrozenModels, LocatedRegions, locate_regions
from regionspot.core.geometry import FloatArray
from regionspot.inference.encoded_image import EncodedImage, encode_pixels
from regionspot.inference.from_cache import embed_regions
from regionspot.inference.inputs import ImageLike, as_array, load_image
from regionspot.inference.matching_models import exif_policy_of
from regionspot.inference.prompts import BoxFormat, PromptedPixels, mask_form_for, open_prompted
from regionspot.inference.prototypes import (
    Examples,
    Prototypes,
    average_examples,
    listed_examples,
)
from regionspot.model import TrainedHead

PromptsByKind = Mapping[str, ArrayLike | Iterable[ArrayLike] | None]


class RegionEmbedder:
    """A trained head with the frozen models, all on the models' device.

    Args:
        trained_head: The head, which is moved to the models' device in eval mode.
        models: The frozen SAM and CLIP that it was trained on.
    """

    def __init__(self, trained_head: TrainedHead, models: FrozenModels) -> None:
        self.trained_head = trained_head
        self.models = models
        self.device = models.encoder.device
        self._exif_policy = exif_policy_of(trained_head.card)
        self._fingerprint = models.fingerprint(exif_policy=self._exif_policy)
        self._mask_form = mask_form_for(trained_head.card.prompts)
        trained_head.head.to(self.device).eval()
        trained_head.classifier.to(self.device).eval()

    def encode(self, image: ImageLike) -> EncodedImage:
        """Run both image encoders, unless the image is already encoded."""
        if isinstance(image, EncodedImage):
            return image
        pixels = load_image(image, exif_policy=self._exif_policy)
        (encoded,) = encode_pixels(self.models, [pixels], self._fingerprint)
        return encoded

    def open(
        self,
        image: ImageLike | Iterable[ImageLike],
        prompts: PromptsByKind,
        *,
        several: bool,
        box_format: BoxFormat,
    ) -> list[PromptedPixels]:
        """Open images with their prompts; see `open_prompted`."""
        return open_prompted(
            image,
            prompts,
            several=several,
            box_format=box_format,
            exif_policy=self._exif_policy,
            mask_form=self._mask_form,
        )

    def embed(
        self, images: Sequence[PromptedPixels], *, with_masks: bool
    ) -> Iterator[tuple[PromptedPixels, LocatedRegions, Tensor]]:
        """Return each image of a batch with its regions and their embeddings, (R, E) float32."""
        encoded = self._encoded(images)
        located, extents = [], []
        for image, one in zip(images, encoded, strict=True):
            regions, where = self._locate(image, one, with_masks=with_masks)
            located.append(regions)
            extents.append(where)
        embeddings = embed_regions(
            self.trained_head,
            torch.stack([one.feature_map.to(self.device) for one in encoded]),
            [regions.tokens for regions in located],
            extents,
        )
        return zip(images, located, embeddings, strict=True)

    def attention(self, image: PromptedPixels) -> FloatArray:
        """Return what the regions of an image attend to, (R, T); see `RegionSpot.attention`."""
        (encoded,) = self._encoded([image])
        regions, extents = self._locate(image, encoded, with_masks=False)
        maps_BRT = self.trained_head.head.attention_maps(
            regions.tokens[None].float(),
            encoded.feature_map[None].to(self.device),
            extents=extents[None].to(self.device),
        )
        maps_RT: FloatArray = maps_BRT[0].cpu().numpy()
        return maps_RT

    def average(self, examples: Examples, *, box_format: BoxFormat) -> Prototypes:
        """Embed examples and average them by name; see `RegionSpot.prototypes`."""
        embeddings: dict[str, list[Tensor]] = {}
        for name, image, box in listed_examples(examples):
            boxes = np.atleast_2d(as_array(box, name=f"the box of {name!r}"))
            opened = self.open(image, {"boxes": boxes}, several=False, box_format=box_format)
            ((_, _, z_RE),) = self.embed(opened, with_masks=False)
            embeddings.setdefault(name, []).append(z_RE)
        return average_examples(
            {name: torch.cat(parts).cpu().numpy() for name, parts in embeddings.items()}
        )

    def _locate(
        self, image: PromptedPixels, encoded: EncodedImage, *, with_masks: bool
    ) -> tuple[LocatedRegions, Tensor]:
        """Return the regions of an image and where they are, see `FusionHead.extents`."""
        head = self.trained_head.head
        regions = locate_regions(
            self.models.localizer,
            encoded.sam_embedding[None].to(self.device),
            image.prompts,
            image.size_hw,
            with_masks=with_masks or head.spec.needs_masks,
        )
        extents = head.extents(
            regions.boxes_xyxy, image.size_hw, regions.masks, num_tokens=len(encoded.feature_map)
        )
        return (regions if with_masks else replace(regions, masks=None)), extents

    def _encoded(self, images: Sequence[PromptedPixels]) -> list[EncodedImage]:
        """Encode those of the images that are not yet encoded, in one batch."""
        pixels = [image.pixels for image in images if image.encoded is None]
        fresh = iter(encode_pixels(self.models, pixels, self._fingerprint))
        encoded = [next(fresh) if image.encoded is None else image.encoded for image in images]
        for one in encoded:
            one.check_models(self._fingerprint)
        return encoded
