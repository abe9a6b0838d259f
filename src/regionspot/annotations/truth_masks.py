"""Masks of ground truth, for mask AP: the segmentations of a file, encoded as RLE.

Whatever cannot be drawn is refused. `lvis` and `pycocotools` stop with an exception there, or read
memory that is not theirs.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
from typing_extensions import override

from regionspot.annotations.coco_entries import JsonId
from regionspot.annotations.columns import TextColumn
from regionspot.annotations.json_entries import Entries, Entry, whole_number_in
from regionspot.annotations.region_prompts import encode_mask
from regionspot.core.errors import AnnotationError
from regionspot.core.rle_masks import RleMasks


class _Image(msgspec.Struct, gc=False):
    id: JsonId
    height: JsonId
    width: JsonId


class ImageSizes(Entries[_Image]):
    """The list ``images``: the size of each. If an image is listed again, the last entry counts."""

    def __init__(self) -> None:
        super().__init__(msgspec.json.Decoder(list[_Image]))
        self.sizes_hw: dict[int, tuple[int, int]] = {}

    @override
    def _take(self, entries: Sequence[_Image]) -> bool:
        self.sizes_hw |= {entry.id: (entry.height, entry.width) for entry in entries}
        return True

    @override
    def _parse(self, entry: Entry, place: str) -> _Image:
        return _Image(
            id=whole_number_in(entry, "id", place),
            height=whole_number_in(entry, "height", place),
            width=whole_number_in(entry, "width", place),
        )


def encoded_masks(
    texts: TextColumn,
    places: Iterable[int],
    image_ids: Iterable[int],
    *,
    sizes_hw: Mapping[int, tuple[int, int]],
    path: Path,
) -> RleMasks:
    """Encode the masks of the annotations that count.

    Args:
        texts: The segmentation of every annotation of the file, from `segmentation_text`.
        places: Positions in the file of those that count.
        image_ids: The image of each of those.
        sizes_hw: Height and width of each image.
        path: The file, for messages.

    Raises:
        AnnotationError: One has no segmentation, or one that does not fit its image.
        MissingExtraError: pycocotools is not installed.
    """
    counts, sizes = [], []
    for place, image_id in zip(places, image_ids, strict=True):
        size_hw = sizes_hw[image_id]
        text = texts[place]
        encoded = encode_mask(text, size_hw) if text else None
        if encoded is None:
            raise AnnotationError(
                f"{path}: annotations[{place}] has no segmentation that fits its image of"
                f" {size_hw[0]} x {size_hw[1]} (height x width); wanted polygons of three or more"
                " corners, or an RLE whose counts add up to the image, for every annotation. Set"
                " --iou_type bbox to score boxes."
            )
        counts.append(encoded)
        sizes.append(size_hw)
    return RleMasks.of_lists(counts, sizes)
